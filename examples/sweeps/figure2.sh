# Figure 2: RSI, error bound and cosine by epoch, of one training each on CIFAR-10, ImageNet and WikiText-2.
#
#     DATA=/data sh examples/sweeps/figure2.sh [--sample 51/510]        (as figure1.sh)
# Of WikiText-2 the paper's gradients are those before clipping.
python examples/cifar10.py "$DATA/cifar10" --run runs/figure2/cifar10 --epochs 190 "$@"
python examples/imagenet.py "$DATA/imagenet" --run runs/figure2/imagenet --model resnet50 --epochs 180 "$@"
python examples/wikitext2.py "$DATA/wikitext2" --run runs/figure2/wikitext2 "$@"
lpa analyze runs/figure2/wikitext2 --stream grad_preclip
lpa plot fig2 runs/figure2/cifar10 runs/figure2/imagenet runs/figure2/wikitext2/metrics.grad_preclip.parquet --width text
