#!/bin/sh
# The pictures of docs/how-to/atlas.md from an index of the packaged sample with effects, by Chromium:
# sh docs/pictures/atlas.sh sample.vitdex
set -eu
out=$1
to=$(dirname "$0")
work=$(mktemp -d)
vitdex export embedding-atlas "$out" "$work/neurons.parquet" --space scores > "$work/said" # neurons are arranged by now
vitdex atlas serve "$out" --port 0 > "$work/address" &
trap 'kill $!; rm -r "$work"' EXIT
until [ -s "$work/address" ]; do sleep 1; done
shoot() {
  chromium --headless --no-sandbox --hide-scrollbars --force-device-scale-factor=1.5 --virtual-time-budget=20000 \
    --window-size="1440,$3" --screenshot="$work/shot.png" "$(cat "$work/address")$1" 2> "$work/said"
  python -c "
import sys
from PIL import Image
picture = Image.open(sys.argv[1]).convert('RGB')
if sys.argv[2].endswith('.jpg'):
    picture.save(sys.argv[2], quality=85, optimize=True, subsampling=0)
else:
    picture.quantize(256).save(sys.argv[2], optimize=True)
" "$work/shot.png" "$to/$2"
}
shoot '#/neuron/blocks.5.mlp.fc1/16' atlas-neuron.jpg 930
shoot '#/map' atlas-map.png 985
