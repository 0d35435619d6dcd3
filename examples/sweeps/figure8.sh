# Figure 8: RSI and error bound by epoch, of batch sizes on WikiText-2 (the trainings of figure 1).
# Figures 7 to 11 show RSI and error bound for the ablations of figures 1, 4 and 6; the order here is a guess.
# The paper's gradients are those before clipping.
for run in runs/figure1/wikitext2/*; do lpa analyze "$run" --stream grad_preclip; done
lpa plot fig8 runs/figure1/wikitext2/*/metrics.grad_preclip.parquet --width text
