# Figure 1: the cosine by epoch, over depth and width (ImageNet), batch size (WikiText-2), optimizer (CIFAR-10) and
# model (Vaihingen).
#
#     DATA=/data sh examples/sweeps/figure1.sh [--sample 51/510]
#
# DATA holds the folders imagenet, wikitext2, cifar10 and vaihingen; other options go to every run. A step takes up to
# 7 bytes a parameter, all steps of a training terabytes: --sample keeps fewer. To keep none, train twice as the paper
# did: once with a --sample beyond the last step, then into another --run with --reference and the first one.
#
# The paper leaves the last epoch out, as `lpa plot fig1` does, and ImageNet's after the 155th. Its gradients on WikiText-2
# are those before clipping, which changes RSI and error bound but not the cosine.

# The paper's scripts try learning rates .0001, .0005 and .001 for each optimizer; the text does not say which is shown.
for optimizer in sgd momentum adam; do for lr in .0001 .0005 .001; do
    python examples/cifar10.py "$DATA/cifar10" --run "runs/figure1/cifar10/$optimizer-$lr" \
        --optimizer $optimizer --lr $lr --epochs 100 "$@"
done; done

for model in "resnet18 1" "resnet18 2" "resnet50 1" "resnet50 2" "resnet152 .5" "resnet152 1"; do
    python examples/imagenet.py "$DATA/imagenet" --run "runs/figure1/imagenet/${model% *}-${model#* }" \
        --model "${model% *}" --width "${model#* }" --epochs 180 "$@"
done

for batch in 32 64 128 256; do
    python examples/wikitext2.py "$DATA/wikitext2" --run "runs/figure1/wikitext2/$batch" --batch $batch "$@"
done

for model in unet segnet; do
    python examples/vaihingen.py "$DATA/vaihingen" --run "runs/figure1/vaihingen/$model" --model $model "$@"
done

# A panel has six curves at most: of the optimizers those of one learning rate are drawn.
lpa plot fig1 runs/figure1/imagenet/* runs/figure1/wikitext2/* runs/figure1/cifar10/*-.0005 runs/figure1/vaihingen/* \
    --width text
