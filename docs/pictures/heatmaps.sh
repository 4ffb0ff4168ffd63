#!/bin/sh
# The pictures of docs/how-to/heatmaps.md from an index of the packaged sample: sh docs/pictures/heatmaps.sh sample.vitdex
set -eu
out=$1
to=$(dirname "$0")
one="--neuron blocks.4.mlp.fc1:473 --image coin/013.jpg"
vitdex heatmap "$out" $one -o "$to/heatmap-map.png"
vitdex heatmap "$out" $one --blocky -o "$to/heatmap-blocky.png"
vitdex heatmap "$out" $one --view neuron-gradient -o "$to/heatmap-neuron-gradient.png"
vitdex heatmap "$out" --view logit-gradient --class coin --image coin/013.jpg -o "$to/heatmap-logit-gradient.png"
both="--neuron blocks.4.mlp.fc1:473 --neuron blocks.5.mlp.fc1:16 --class coin --image coin/013.jpg"
vitdex heatmap "$out" $both --view grad-times-activation -o "$to/heatmap-grad-times-activation.png"
vitdex heatmap "$out" $both --view contribution -o "$to/heatmap-contribution.png"
vitdex heatmap "$out" $both --view effect -o "$to/heatmap-effect.png"
vitdex heatmap "$out" --class letter -k 3 --images 3 -o "$to/heatmap-class.png"
# smaller, to keep the page light
python -c "import sys; from PIL import Image; p = Image.open(sys.argv[1]); p.thumbnail((660, 660)); p.save(sys.argv[1])" \
  "$to/heatmap-class.png"
