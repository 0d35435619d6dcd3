# Figure 5: RSI and cosine of two functions without beneficial geometry, which are reconstructions from the paper's text.
lpa simulate alm runs/figure5/alm
lpa simulate sm runs/figure5/sm
lpa plot fig5 runs/figure5/alm runs/figure5/sm --width text
