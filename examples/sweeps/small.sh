# All fourteen figures from trainings of seconds, on small data in place of the paper's (examples/small.py says which).
#
#     sh examples/sweeps/small.sh OUT
#
# takes some minutes on two cores, and writes OUT/runs and OUT/fig1.svg to OUT/fig14.svg, each with its numbers as CSV.
# The commands are those that the sweeps of full scale end with.
set -e
out=${1:?name a directory: sh examples/sweeps/small.sh OUT}
runs=$out/runs
python examples/small.py "$runs"
lpa simulate alm "$runs/alm" --steps 2000
lpa simulate sm "$runs/sm" --steps 2000

figure() { name=$1; shift; lpa plot "$name" "$@" --width text --out "$out/$name.svg"; }
one="$runs/optimizers/momentum $runs/sizes/mlp3-1 $runs/words/32"
figure fig1 "$runs"/sizes/* "$runs"/words/* "$runs"/optimizers/* "$runs"/scenes/*
figure fig2 $one
figure fig3 $one
figure fig4 "$runs"/chance/*
figure fig5 "$runs/alm" "$runs/sm"
figure fig6 "$runs"/batches/*
figure fig7 "$runs"/sizes/*
figure fig8 "$runs"/words/*
figure fig9 "$runs"/optimizers/*
figure fig10 "$runs"/chance/*
figure fig11 "$runs"/batches/*
figure fig12 "$runs"/optimizers/*
figure fig13 $one
figure fig14 "$runs"/equal/*
