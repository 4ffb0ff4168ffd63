#!/bin/sh
# The pictures of docs/how-to/look-ups.md from an index of the packaged sample: sh docs/pictures/queries.sh sample.vitdex
set -eu
out=$1
to=$(dirname "$0")
vitdex neighbours "$out" vehicle/013.jpg --neuron blocks.5.mlp.fc1 -k 9 -o "$to/neighbours.png"
python -c "import sys; from vitdex.query import Index; Index(sys.argv[1]).neuron('blocks.4.mlp.fc1', 473).picture().save(sys.argv[2], quality=90)" \
  "$out" "$to/neuron.jpg"
