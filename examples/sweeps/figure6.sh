# Figure 6: the cosine on CIFAR-10, of four batch sizes with learning rates .005 sqrt(batch / 64).
#
#     DATA=/data sh examples/sweeps/figure6.sh [--sample 51/510]        (as figure1.sh)
#
# The random walk's cosine grows with the batch size too, as there are fewer steps.
for batch in 64 128 256 512; do
    python examples/cifar10.py "$DATA/cifar10" --run runs/figure6/$batch --batch $batch --epochs 190 "$@"
done
lpa plot fig6 runs/figure6/*
