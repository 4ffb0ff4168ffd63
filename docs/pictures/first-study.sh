#!/bin/sh
# The pictures of docs/how-to/first-study.md from an index of the packaged sample: sh docs/pictures/first-study.sh sample.vitdex
set -eu
out=$1
to=$(dirname "$0")
vitdex heatmap "$out" --class building -k 3 --images 3 --by score --view post --scale image -o "$to/first-study-heatmap.png"
vitdex dissect regions "$out" building --by score --quantile image:80 --show image -o "$to/first-study-regions.png"
# smaller, to keep the page light
python -c "import sys; from PIL import Image; p = Image.open(sys.argv[1]); p.thumbnail((660, 660)); p.save(sys.argv[1])" \
  "$to/first-study-heatmap.png"
