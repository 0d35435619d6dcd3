#!/bin/sh
# produce.sh LPA FIXTURES OUT: tables of all fixtures, and runs stored anew in every way. Prints their
# hashes, which no instruction set changes.
set -e
lpa=$1 fixtures=$2 out=$3
mkdir -p "$out"
for run in "$fixtures"/digits_mlp "$fixtures"/format/*; do
    name=${run##*/}
    "$lpa" analyze "$run" --quiet --ref final --ref step:1 --ref step:2 --ref mean:0..3 --stream grad --stream update \
        --group '*' --group each --format csv > "$out/$name.csv"
done
pack() {
    "$lpa" pack "$fixtures/$1" --out "$out/$2" $3 > /dev/null
}
pack digits_mlp default
pack digits_mlp fast "--profile fast"
pack digits_mlp alone "--no-predict"
pack digits_mlp int8 "--gradients int8 --iterates int8"
pack digits_mlp bf16 "--gradients bf16 --profile fast"
for name in f32 bf16 f16 linear sgd adam; do
    pack format/v1-$name "$name-default"
    pack format/v1-$name "$name-fast" "--profile fast"
done
cd "$out"
find . -name '*.csv' -o -name '*.safetensors' | sort | xargs sha256sum
