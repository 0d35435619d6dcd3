# Figure 2: RSI, error bound and cosine by epoch, of one training each on CIFAR-10, ImageNet and WikiText-2.
#
#     DATA=/data sh examples/sweeps/figure2.sh [--sample 51/510]        (as figure1.sh)
#
# Curves: `lpa analyze RUN` (WikiText-2: `--stream grad_preclip`), columns `rsi`, `eb` and `cos`.
python examples/cifar10.py "$DATA/cifar10" --run runs/figure2/cifar10 --epochs 190 "$@"
python examples/imagenet.py "$DATA/imagenet" --run runs/figure2/imagenet --model resnet50 --epochs 180 "$@"
python examples/wikitext2.py "$DATA/wikitext2" --run runs/figure2/wikitext2 "$@"
