// Color ramps, each for one kind of value, and the bars that say what their colors mean.
"use strict";
import { element, format } from "./api.js";

const hex = (colors) => colors.map((c) => [1, 3, 5].map((n) => parseInt(c.slice(n, n + 2), 16)));

const STOPS = {
  measured: hex(["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"]), // viridis
  heat: hex(["#ffffd9", "#edf8b1", "#c7e9b4", "#7fcdbb", "#41b6c4", "#1d91c0", "#225ea8", "#253494", "#081d58"]), // yellow to blue, which no H&E has
  signed: hex(["#2d004b", "#542788", "#8073ac", "#b2abd2", "#f7f7f7", "#fdb863", "#e08214", "#b35806", "#7f3b08"]), // purple to orange
};

export const NO_VALUE = "#767676";

export function color(ramp, share) {
  const stops = STOPS[ramp], x = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(x), stops.length - 2);
  const mix = stops[low].map((v, n) => Math.round(v + (x - low) * (stops[low + 1][n] - v)));
  return `rgb(${mix.join(" ")})`;
}

export function shareOf(value, [low, high]) { return high > low ? (value - low) / (high - low) : 0.5; }

/** `steps` colors of a ramp, from low to high. */
export function palette(ramp, steps) {
  return Array.from({ length: steps }, (_, n) => color(ramp, n / (steps - 1)));
}

/** Show in `place` what the colors of a ramp mean; nothing without a ramp. */
export function drawBar(place, bar) {
  place.hidden = !bar;
  if (!bar) return;
  const canvas = element("canvas", { width: 240, height: 12 }), context = canvas.getContext("2d");
  canvas.setAttribute("aria-hidden", "true");
  for (let x = 0; x < 240; x += 1) {
    context.fillStyle = bar.colors ? bar.colors(x / 239) : color(bar.ramp, x / 239);
    context.fillRect(x, 0, 1, 12);
  }
  const [low, high] = bar.limits, middle = (low + high) / 2;
  const ends = bar.open ? [`≤ ${format(low)}`, `≥ ${format(high)}`] : [format(low), format(high)];
  const ticks = [ends[0], format(middle), ends[1]].map((text) => element("span", { textContent: text }));
  place.replaceChildren(
    element("figcaption", { textContent: bar.name }), canvas,
    element("div", { className: "ticks" }, ...ticks),
    ...(bar.note ? [element("small", { textContent: bar.note })] : []),
  );
}
