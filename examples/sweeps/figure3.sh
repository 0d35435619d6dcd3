# Figure 3: the locally optimal learning rate by epoch, of the trainings of figure 2. It follows the schedule; so
# does that of a random walk.
#
# Curves: columns `lolr` and `lr`, and of a random walk `lolr / lolr_ratio`.
for run in runs/figure2/*; do lpa analyze "$run"; done
