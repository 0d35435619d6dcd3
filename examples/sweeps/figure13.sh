# Figure 13: the distance to the final iterate by epoch, of the trainings of figure 2.
# The figure says from where on the distance is rounding.
lpa plot fig13 runs/figure2/* --width text
