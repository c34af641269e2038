// What lies on the slide besides outlines: heatmap, patches, regions, the chosen nucleus, reviews.
"use strict";
import { color, shareOf } from "./colors.js";

export function drawHeatmap(context, view, patches, values, bar, opacity) {
  let drawn = 0;
  context.globalAlpha = opacity;
  patches.forEach((patch, number) => {
    const box = place(view, patch), value = values[number];
    if (value === null || !box) return;
    context.fillStyle = color(bar.ramp, shareOf(value, bar.limits));
    context.fillRect(...box);
    drawn += 1;
  });
  context.globalAlpha = 1;
  return drawn;
}

export function drawPatches(context, view, patches) {
  let drawn = 0;
  for (const patch of patches) {
    const box = place(view, patch);
    if (!box) continue;
    context.strokeStyle = patch.kept ? "#0072B2" : "#767676";
    context.lineWidth = patch.kept ? 1.5 : 0.75;
    context.setLineDash(patch.kept ? [] : [4, 3]);
    context.strokeRect(...box);
    drawn += 1;
  }
  context.setLineDash([]);
  return drawn;
}

function place({ left, top, scale, width, height }, { x_px: x, y_px: y, side_px: side }) {
  const box = [left + x * scale, top + y * scale, side * scale, side * scale];
  return box[0] > width || box[1] > height || box[0] + box[2] < 0 || box[1] + box[3] < 0 ? null : box;
}

/** Rings of level-0 pixels as a line with a casing around it. */
export function drawRings(context, { left, top, scale }, rings, { line, casing, width, dash = [] }) {
  context.beginPath();
  for (const ring of rings) {
    for (let n = 0; n < ring.length; n += 2) context[n ? "lineTo" : "moveTo"](left + ring[n] * scale, top + ring[n + 1] * scale);
    context.closePath();
  }
  context.lineJoin = "round";
  for (const [style, wide] of [[casing, width + 2.4], [line, width]]) {
    context.strokeStyle = style;
    context.lineWidth = wide;
    context.setLineDash(style === line ? dash : []);
    context.stroke();
  }
  context.setLineDash([]);
}

const MARKS = { accept: "✓", reject: "✕", retype: "↻" };

/** A sign on each nucleus that was reviewed. */
export function drawReviews(context, { left, top, scale, width, height }, reviews) {
  let drawn = 0;
  context.font = "bold 13px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  for (const { x, y, decision } of reviews) {
    const at = [left + x * scale, top + y * scale];
    if (at[0] < 0 || at[1] < 0 || at[0] > width || at[1] > height) continue;
    context.lineWidth = 3;
    context.strokeStyle = "#ffffff";
    context.strokeText(MARKS[decision], ...at);
    context.fillStyle = decision === "reject" ? "#B00020" : "#000000";
    context.fillText(MARKS[decision], ...at);
    drawn += 1;
  }
  return drawn;
}
