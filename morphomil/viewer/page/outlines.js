// The layer of outlines: bitmaps of tiles, drawn by workers, which moving and zooming only copies.
"use strict";
import { say } from "./api.js";

const WORKERS = 2;
const AT_ONCE = 2; // each worker draws so many tiles at a time
const BITMAP_BYTES = 192 * 2 ** 20; // the bitmaps' memory
const DEEPEST = -4; // levels below 0 enlarge tiles of level 0
const FARTHEST = 4; // a missing tile is stood in for by one up to so many levels above

export class OutlineLayer {
  constructor({ tile, cell, onReady }) {
    Object.assign(this, { tile, cell, onReady, root: "", version: 0, running: 0, nextId: 0 });
    this.bitmaps = new Map();
    this.waiting = new Map();
    this.wanted = [];
    this.workers = Array.from({ length: WORKERS }, () => new Worker("/page/outline_worker.js"));
    for (const worker of this.workers) worker.onmessage = ({ data }) => this.receive(data);
  }

  /** Show another image: `root` is where its tiles lie; what was drawn before is gone. */
  open(root, about) {
    Object.assign(this, { root, about });
    for (const { bitmap } of this.bitmaps.values()) bitmap?.close();
    this.bitmaps.clear();
    this.wanted = [];
  }

  /** Draw tiles in another style; the old ones stay until the new ones are there. */
  restyle(style) {
    this.style = style;
    this.version += 1;
  }

  /** Level of tiles for a scale, in screen pixels per level-0 pixel. */
  level(scale) { return Math.max(Math.floor(Math.log2(1 / scale) + 0.3), DEEPEST); }

  isDensity(scale) { return this.level(scale) >= this.about.levels; }

  /** Draw what lies in view; `left`, `top`: where level-0 pixel 0, 0 is on screen. Returns counts. */
  draw(context, { left, top, scale, target, width, height }) {
    const counts = { nuclei: 0, cells: 0, missing: 0 };
    const level = this.level(target), side = this.tile * 2 ** level, on = side * scale;
    const first = [Math.max(0, Math.floor(-left / on)), Math.max(0, Math.floor(-top / on))];
    const last = [Math.floor(Math.min(width - left, this.about.width * scale) / on), Math.floor(Math.min(height - top, this.about.height * scale) / on)];
    const needed = [];
    for (let row = first[1]; row <= last[1]; row += 1) {
      for (let column = first[0]; column <= last[0]; column += 1) {
        const key = `${level}/${column}_${row}`, found = this.bitmaps.get(key);
        if (!found || found.version !== this.version) {
          const away = Math.hypot(left + (column + 0.5) * on - width / 2, top + (row + 0.5) * on - height / 2);
          needed.push({ key, level, column, row, away });
        }
        const place = [left + column * on, top + row * on, on];
        if (found?.bitmap) this.copy(context, found, key, place, counts);
        else if (!found) { counts.missing += 1; this.standIn(context, level, column, row, place); }
      }
    }
    this.wanted = needed.sort((a, b) => a.away - b.away);
    this.pump();
    return counts;
  }

  copy(context, found, key, [x, y, side], counts) {
    context.drawImage(found.bitmap, x, y, side, side);
    counts.nuclei += found.nuclei;
    counts.cells += found.cells;
    this.bitmaps.delete(key);
    this.bitmaps.set(key, found); // the latest last
  }

  standIn(context, level, column, row, [x, y, side]) {
    for (let up = 1; up <= FARTHEST; up += 1) {
      const parts = 2 ** up, found = this.bitmaps.get(`${level + up}/${Math.floor(column / parts)}_${Math.floor(row / parts)}`);
      if (!found?.bitmap || found.cells) continue;
      const width = found.bitmap.width / parts;
      context.drawImage(found.bitmap, (column % parts) * width, (row % parts) * width, width, width, x, y, side, side);
      return;
    }
  }

  pump() {
    while (this.running < WORKERS * AT_ONCE) {
      const next = this.wanted.find(({ key }) => !this.waiting.has(key));
      if (!next) return;
      const id = this.nextId += 1, pixels = Math.round(this.tile * this.style.ratio);
      this.waiting.set(next.key, { id, version: this.version, root: this.root });
      this.running += 1;
      this.worker(next).postMessage({ id, root: this.root, tile: this.source(next), style: this.style, side: this.tile, pixels });
    }
  }

  worker({ column, row }) { return this.workers[(column + row) % WORKERS]; }

  /** The tile on the server that a tile on screen is drawn from, and which part of it. */
  source({ level, column, row }) {
    const parts = level < 0 ? 2 ** -level : 1, um = this.cell * 2 ** level * this.about.mpp;
    return { level: Math.max(level, 0), column: Math.floor(column / parts), row: Math.floor(row / parts), part: [column % parts, row % parts], parts, um };
  }

  receive({ id, error, found, ...drawn }) {
    if (this.picking?.id === id) {
      this.picking.resolve(error ? null : found);
      this.picking = null;
      return;
    }
    this.running -= 1;
    for (const [key, asked] of this.waiting) {
      if (asked.id !== id) continue;
      this.waiting.delete(key);
      if (asked.root !== this.root) drawn.bitmap?.close();
      else this.store(key, { version: asked.version, nuclei: 0, cells: 0, ...drawn });
    }
    if (error) say(error);
    this.onReady();
  }

  store(key, drawn) {
    this.bitmaps.get(key)?.bitmap?.close();
    this.bitmaps.set(key, drawn);
    const most = BITMAP_BYTES / (4 * (this.tile * this.style.ratio) ** 2);
    while (this.bitmaps.size > most) {
      const [oldest, { bitmap }] = this.bitmaps.entries().next().value;
      bitmap?.close();
      this.bitmaps.delete(oldest);
    }
  }

  /** The nucleus at a level-0 place, or null: its label and ring, level-0 pixels. */
  async pick(x, y, scale) {
    const level = Math.max(this.level(scale), 0), side = this.tile * 2 ** level;
    const tile = { level, column: Math.floor(x / side), row: Math.floor(y / side), part: [0, 0], parts: 1 };
    while (this.picking) await this.picking.done;
    if (!this.about.nuclei || x < 0 || y < 0 || this.isDensity(scale)) return null;
    const place = [(x / side - tile.column) * this.tile, (y / side - tile.row) * this.tile];
    const id = this.nextId += 1, root = this.root;
    let resolve;
    const done = new Promise((settle) => { resolve = settle; });
    this.picking = { id, resolve, done };
    this.worker(tile).postMessage({ id, pick: true, root, tile, place });
    const found = await done;
    if (!found || root !== this.root) return null;
    const ring = found.ring.map((v, n) => (v / this.tile + (n % 2 ? tile.row : tile.column)) * side);
    return { label: found.label, ring };
  }
}
