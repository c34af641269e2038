// Fetches tiles of outlines, draws them into bitmaps and finds the nucleus under a point, beside the
// page's own thread, which so stays free to move the slide. The bytes are described in tiles.py.
"use strict";

const SUBPIXELS = 16;
const KEPT = 64; // so many tiles stay decoded
const STEPS = 32; // values have so many colors
const MISSING = 255;
const DENSEST_PER_MM2 = 10000; // the opacity of counted cells ends here

const tiles = new Map();
const values = new Map();

function keep(map, key, make) {
  const found = map.get(key) ?? make();
  map.delete(key);
  map.set(key, found); // the latest last
  found.catch(() => map.delete(key));
  if (map.size > KEPT) map.delete(map.keys().next().value);
  return found;
}

async function fetchBytes(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer.arrayBuffer();
}

function decode(buffer) {
  const [kind, n, m, types] = new Uint32Array(buffer, 0, 4);
  if (kind === 1) return { cells: m, types, counts: new Uint16Array(buffer, 16) };
  const labels = new Uint32Array(buffer, 16, n), ends = new Uint32Array(buffer, 16 + 4 * n, n);
  const points = new Int16Array(buffer, 16 + 8 * n, 2 * m), type = new Uint8Array(buffer, 16 + 8 * n + 4 * m, n);
  const boxes = new Int16Array(4 * n);
  for (let i = 0, k = 0; i < n; i += 1) {
    let left = 32767, top = 32767, right = -32768, bottom = -32768;
    for (; k < ends[i]; k += 1) {
      const x = points[2 * k], y = points[2 * k + 1];
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      if (y > bottom) bottom = y;
    }
    boxes.set([left, top, right, bottom], 4 * i);
  }
  return { labels, ends, points, type, boxes };
}

function readTile(root, { level, column, row }) {
  const path = `${root}/outlines/${level}/${column}_${row}.bin`;
  return keep(tiles, path, async () => decode(await fetchBytes(path)));
}

function readValues(root, { level, column, row }, number) {
  const path = `${root}/values/${number}/${level}/${column}_${row}.bin`;
  return keep(values, path, async () => new Uint8Array(await fetchBytes(path)));
}

// The part of a data tile that a bitmap shows: all of it, or where the slide is enlarged a square of it.
function crop({ part, parts }, side) {
  const width = side / parts;
  return { left: part[0] * width, top: part[1] * width, width };
}

async function draw({ root, tile, style, side, pixels }) {
  const found = await readTile(root, tile);
  const canvas = new OffscreenCanvas(pixels, pixels), context = canvas.getContext("2d");
  const view = crop(tile, side), scale = pixels / view.width; // bitmap pixels per tile pixel
  if (found.counts) return { bitmap: drawCells(canvas, context, found, style, tile.um), nuclei: 0, cells: found.cells ** 2 };
  const colored = style.column === null ? null : await readValues(root, tile, style.column);
  const nuclei = drawOutlines(context, found, colored, style, view, scale);
  return { bitmap: canvas.transferToImageBitmap(), nuclei, cells: 0 };
}

function drawOutlines(context, found, colored, style, view, scale) {
  const { ends, points, type, boxes } = found;
  const left = view.left * SUBPIXELS, top = view.top * SUBPIXELS, reach = view.width * SUBPIXELS;
  const paths = new Map();
  let drawn = 0, shown = 0, extent = 0;
  for (let i = 0; i < ends.length; i += 1) {
    const box = 4 * i;
    if (style.hidden[type[i]] || boxes[box] > left + reach || boxes[box + 2] < left || boxes[box + 1] > top + reach || boxes[box + 3] < top) continue;
    const bucket = colored ? (colored[i] === MISSING ? STEPS : Math.round(colored[i] / 254 * (STEPS - 1))) : style.byType ? type[i] : 0;
    let path = paths.get(bucket);
    if (!path) paths.set(bucket, path = new Path2D());
    let k = i ? ends[i - 1] : 0;
    path.moveTo(points[2 * k], points[2 * k + 1]);
    for (k += 1; k < ends[i]; k += 1) path.lineTo(points[2 * k], points[2 * k + 1]);
    path.closePath();
    const x = (boxes[box] + boxes[box + 2]) / 2, y = (boxes[box + 1] + boxes[box + 3]) / 2;
    if (x >= left && x < left + reach && y >= top && y < top + reach) shown += 1;
    drawn += 1;
    extent += boxes[box + 2] - boxes[box];
  }
  const zoom = scale / SUBPIXELS;
  context.setTransform(zoom, 0, 0, zoom, -left * zoom, -top * zoom);
  const ratio = style.ratio, wide = extent * zoom / Math.max(drawn, 1) / ratio; // mean width on screen
  context.lineJoin = "round";
  for (const [bucket, path] of paths) {
    if (wide < 5) { // too small for a line around
      context.fillStyle = style.colors[bucket];
      context.fill(path);
      continue;
    }
    if (wide > 14) {
      context.strokeStyle = style.casing;
      context.lineWidth = 3.4 * ratio / zoom;
      context.stroke(path);
    }
    context.strokeStyle = style.colors[bucket];
    context.lineWidth = (wide > 14 ? 1.8 : 1.2) * ratio / zoom;
    context.stroke(path);
  }
  return shown;
}

function drawCells(canvas, context, { cells, types, counts }, style, um) {
  const image = new ImageData(cells, cells), full = DENSEST_PER_MM2 * (um / 1000) ** 2, [r, g, b] = style.density;
  for (let cell = 0; cell < cells * cells; cell += 1) {
    let count = 0;
    for (let type = 0; type < types; type += 1) if (!style.hidden[type]) count += counts[type * cells * cells + cell];
    image.data.set([r, g, b, count ? 10 + 115 * Math.min(count / full, 1) : 0], 4 * cell);
  }
  const small = new OffscreenCanvas(cells, cells);
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  return canvas.transferToImageBitmap();
}

// The nucleus at a place of a tile, in its pixels: label and outline, or null.
async function pick({ root, tile, place }) {
  const { labels, ends, points, boxes, counts } = await readTile(root, tile);
  if (counts) return null;
  const x = place[0] * SUBPIXELS, y = place[1] * SUBPIXELS;
  for (let i = 0; i < labels.length; i += 1) {
    if (x < boxes[4 * i] || y < boxes[4 * i + 1] || x > boxes[4 * i + 2] || y > boxes[4 * i + 3]) continue;
    const first = i ? ends[i - 1] : 0;
    let inside = false;
    for (let a = first, b = ends[i] - 1; a < ends[i]; b = a, a += 1) {
      const ya = points[2 * a + 1], yb = points[2 * b + 1];
      if ((ya > y) !== (yb > y) && x < points[2 * a] + (y - ya) / (yb - ya) * (points[2 * b] - points[2 * a])) inside = !inside;
    }
    if (inside) return { label: labels[i], ring: Float32Array.from(points.subarray(2 * first, 2 * ends[i]), (v) => v / SUBPIXELS) };
  }
  return null;
}

onmessage = async ({ data }) => {
  try {
    const answer = data.pick ? { found: await pick(data) } : await draw(data);
    postMessage({ id: data.id, ...answer }, answer.bitmap ? [answer.bitmap] : []);
  } catch (error) {
    postMessage({ id: data.id, error: error.message });
  }
};
