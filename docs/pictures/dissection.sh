#!/bin/sh
# The pictures of docs/how-to/dissection.md, docs/findings/focus.md and rankings.md from an index of the packaged sample:
# sh docs/pictures/dissection.sh sample.vitdex
set -eu
out=$1
to=$(dirname "$0")
draw() { name=$1; shift; vitdex dissect "$@" -o "$to/$name.png" > /dev/null; }
draw focus focus "$out" --by score
draw focus-contribution focus "$out"
draw regions regions "$out" building
draw context context "$out"
draw concepts concepts "$out"
draw blocks blocks "$out"
draw activations activations "$out" coin
draw shared shared "$out" --top 10
draw carriers carriers "$out"
draw similarity similarity "$out"
draw selectivity selectivity "$out"
draw agreement agreement "$out"
draw composition composition "$out"
draw logits logits "$out" coin
draw pairs pairs "$out" bird --by margin -k 10
draw sets sets "$out" bird --by margin
draw composed composed "$out" --by margin
draw fires fires "$out" bird/000.jpg
vitdex ablate "$out" --class coin -k 10 -o "$to/ablated.png" > /dev/null
vitdex effects "$out" > /dev/null
vitdex rankings "$out" --images 20 -o "$to/rankings.png" > /dev/null
