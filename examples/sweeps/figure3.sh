# Figure 3: the locally optimal learning rate by epoch, of the trainings of figure 2. It follows the schedule; so
# does that of a random walk.
lpa plot fig3 runs/figure2/* --width text
