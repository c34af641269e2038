// The page: which slide is open, which layers are on, and what keys and pointer do.
"use strict";
import { at, element, fetchJson, fill, say } from "./api.js";
import { color, drawBar, NO_VALUE, palette } from "./colors.js";
import { NucleusPanel } from "./nucleus.js";
import { OutlineLayer } from "./outlines.js";
import { drawHeatmap, drawPatches, drawReviews, drawRings } from "./overlays.js";
import { drawScale, goTo, imagePoint, openImage, position, readLink, sayPlace, viewer, writeLink } from "./slide.js";

history.replaceState(null, "", `/${location.hash}`); // the token stays out of the history; a cookie has it

const STEPS = 32; // values of nuclei have so many colors
const NUCLEUS_UM_PER_PX = 0.15; // a nucleus of the gallery is shown at this scale
const DENSITY = [0, 75, 135];
const LAYERS = { 1: "heatmap", 2: "patches", 3: "nuclei", 4: "regions" };

const state = { slide: 0, image: 0, about: null, patches: null, cohort: null, hover: null };
const layers = element("canvas", { className: "layers" });
layers.setAttribute("aria-hidden", "true");
at("view").prepend(layers);
globalThis.viewer = viewer; // for the console

let run, slides, outlines, panel, frame = 0, linkLater = 0;

// Opening ---------------------------------------------------------------------------------------

async function show(slide, image, view = {}) {
  Object.assign(state, { slide, image, about: null, patches: null, hover: null });
  at("slide").value = slide;
  const { images, name, patient, label } = slides[slide];
  at("image-row").hidden = images < 2;
  fill(at("image"), Array.from({ length: images }, (_, n) => [String(n), String(n + 1)]), String(image));
  at("name").textContent = name;
  at("label").textContent = label === null ? `patient ${patient}` : `patient ${patient}, ${label}`;
  say("Opening the slide.");
  const root = `/slides/${slide}/${image}`;
  try {
    state.about = await fetchJson(`${root}.json`);
  } catch (error) {
    viewer.close();
    say(error.message);
    return;
  }
  if (state.slide !== slide || state.image !== image) return;
  const { about } = state;
  at("about").textContent = `${about.width.toLocaleString("en")} × ${about.height.toLocaleString("en")} px, ` +
    `${about.mpp.toPrecision(3)} µm per px, ${about.nuclei.toLocaleString("en")} nuclei`;
  listChoices(about);
  outlines.open(root, about);
  restyle();
  openImage(root, about, { slide: name, image });
  viewer.addOnceHandler("open", () => {
    if (view.mpp) goTo(view.x, view.y, view.mpp);
    document.title = at("slide").selectedOptions[0].textContent;
    viewer.canvas.setAttribute("aria-label", `Slide ${document.title}; N chooses a nucleus`);
    say(`Slide ${document.title} is open.`);
    draw();
  });
  await Promise.all([panel.open(slide, about.columns), heatmapChanged()]);
  if (view.nucleus !== null && view.nucleus !== undefined) await panel.choose(view.nucleus);
}

function listChoices(about) {
  const byType = about.types.length ? [["type", "Type"]] : [];
  const values = about.columns.map(({ column, name }) => [String(column), name]);
  fill(at("feature"), [...byType, ["", "One color"], ...values], at("feature").value || byType[0]?.[0]);
  const hidden = hiddenTypes();
  at("types").replaceChildren(...about.types.flatMap((count, n) => {
    if (!count) return [];
    const { name, color: dot } = run.types[n];
    const box = element("input", { type: "checkbox", value: name, checked: !hidden.includes(name) }), mark = element("i");
    box.addEventListener("input", restyle);
    mark.style.background = dot;
    return [element("label", {}, box, " ", mark, `${name} (${count.toLocaleString("en")})`)];
  }));
}

function hiddenTypes() { return [...at("types").querySelectorAll("input:not(:checked)")].map((box) => box.value); }

// Styles and what colors mean -------------------------------------------------------------------

async function cohort() {
  while (!state.cohort) {
    const found = await fetchJson("/cohort.json");
    if (found.done) state.cohort = found;
    else {
      say("Reading the ranges of the cohort.");
      await new Promise((resolve) => { setTimeout(resolve, 500); });
    }
  }
  return state.cohort;
}

const cohortNote = ({ slides: n, measured }) =>
  measured === 1 ? "2nd to 98th percentile of the slide" :
    `2nd to 98th percentile of the cohort (${n === measured ? n : `${n} of ${measured}`} slides, each counting alike)`;

async function restyle() {
  const by = at("feature").value, byType = by === "type", column = by === "" || byType ? null : Number(by);
  const hidden = run.types.map(({ name }) => hiddenTypes().includes(name));
  let bar = null;
  if (column !== null) {
    const known = await cohort(), { key } = state.about.columns[column];
    const range = known.nuclei.find((one) => one.column === key);
    const ramp = key === "contribution" ? "signed" : "measured";
    if (at("feature").value !== by || !range) return;
    bar = { ...range, ramp, open: true, note: cohortNote(known) };
  }
  const colors = byType ? run.types.map((one) => one.color) : column === null ? ["#F0E442"] : [...palette(bar.ramp, STEPS), NO_VALUE];
  const casing = byType || (column !== null && bar.ramp === "measured") ? "#ffffff" : "#000000";
  outlines.restyle({ byType, column, hidden, colors, casing, density: DENSITY, ratio: window.devicePixelRatio || 1 });
  state.bar = bar;
  draw();
}

async function heatmapChanged() {
  at("heat-choice").hidden = !at("heatmap").checked;
  if (at("heatmap").checked || at("patches").checked) {
    const { slide, image } = state;
    const [found, known] = await Promise.all([state.patches ?? fetchJson(`/slides/${slide}/${image}/patches.json`), cohort()]);
    if (state.slide !== slide || state.image !== image) return;
    state.patches = found;
    const columns = known.patches.filter(({ column }) => found.values[column]);
    fill(at("value"), columns.map(({ column, name }) => [column, name]), at("value").value || "density_per_mm2");
  }
  draw();
}

function heatmapBar() {
  const range = state.cohort?.patches.find(({ column }) => column === at("value").value);
  if (!at("heatmap").checked || !range || !state.patches) return null;
  return { ...range, ramp: range.column === "contribution" ? "signed" : "heat", open: true, note: cohortNote(state.cohort) };
}

function drawBars(heat, density) {
  const key = JSON.stringify([heat?.column, density, at("nuclei").checked && state.bar?.column]);
  if (drawBars.last === key) return;
  drawBars.last = key;
  drawBar(at("heat-bar"), heat);
  const cells = { name: "Nuclei per mm²: too many for outlines, zoom in", limits: [0, 10000], colors: (x) => `rgb(${DENSITY.join(" ")} / ${0.04 + 0.45 * x})` };
  drawBar(at("nuclei-bar"), !at("nuclei").checked ? null : density ? cells : state.bar);
}

// Drawing ---------------------------------------------------------------------------------------

function draw() { frame ||= requestAnimationFrame(() => { frame = 0; drawNow(); }); }

function drawNow() {
  if (!state.about || !viewer.world.getItemCount() || !outlines.style) return;
  const ratio = window.devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = at("view");
  if (outlines.style.ratio !== ratio) restyle();
  if (layers.width !== Math.round(width * ratio) || layers.height !== Math.round(height * ratio)) {
    Object.assign(layers, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    Object.assign(layers.style, { width: `${width}px`, height: `${height}px` });
  }
  const context = layers.getContext("2d"), view = { ...position(), width, height };
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const heat = heatmapBar(), counts = { heatmap: 0, patches: 0, nuclei: 0, cells: 0, missing: 0, reviews: 0 };
  if (heat) counts.heatmap = drawHeatmap(context, view, state.patches.patches, state.patches.values[heat.column], heat, Number(at("strength").value));
  if (at("patches").checked && state.patches) counts.patches = drawPatches(context, view, state.patches.patches);
  if (at("nuclei").checked && state.about.nuclei) Object.assign(counts, outlines.draw(context, view));
  if (at("regions").checked) drawRings(context, view, state.about.regions, { line: "#1b1f24", casing: "rgb(255 255 255 / .7)", width: 1.6, dash: [9, 5] });
  if (state.hover) drawRings(context, view, [state.hover.ring], { line: "#000000", casing: "#ffffff", width: 2 });
  if (panel.chosen?.image === state.image) drawRings(context, view, panel.chosen.rings, { line: "#E69F00", casing: "#000000", width: 3 });
  if (at("nuclei").checked) counts.reviews = drawReviews(context, view, panel.seen(state.image));
  Object.assign(layers.dataset, counts, { zoom: viewer.viewport.getZoom(true).toFixed(4) });
  drawBars(heat, outlines.isDensity(view.target) && state.about.nuclei > 0);
  drawScale(view.scale);
}

// Pointer and keys ------------------------------------------------------------------------------

async function hover(screen) {
  const point = imagePoint(screen);
  sayPlace(point);
  if (hover.busy || !at("nuclei").checked) return;
  hover.busy = true;
  const found = await outlines.pick(point.x, point.y, position().target);
  hover.busy = false;
  if (found?.label !== state.hover?.label) {
    state.hover = found;
    at("view").classList.toggle("over", Boolean(found));
    draw();
  }
}

async function click({ quick, position: screen }) {
  if (!quick || !state.about || !at("nuclei").checked) return;
  const point = imagePoint(screen), scale = position().target;
  sayPlace(point);
  if (outlines.isDensity(scale)) say("Zoom in to choose a nucleus.");
  else {
    const found = await outlines.pick(point.x, point.y, scale);
    if (found) await panel.choose(found.label);
  }
}

async function onChoice(nucleus) {
  draw();
  later();
  if (!nucleus) return;
  if (nucleus.image !== state.image) {
    await show(state.slide, nucleus.image, { x: nucleus.x, y: nucleus.y, mpp: NUCLEUS_UM_PER_PX, nucleus: nucleus.label });
  } else if (nucleus.rank !== undefined || !viewer.viewport.getBounds().containsPoint(viewer.viewport.imageToViewportCoordinates(nucleus.x, nucleus.y))) {
    goTo(nucleus.x, nucleus.y, NUCLEUS_UM_PER_PX);
  }
}

function later() {
  clearTimeout(linkLater);
  linkLater = setTimeout(() => writeLink(panel.chosen?.label ?? null), 300);
}

function zoom(by) {
  viewer.viewport.zoomBy(by);
  viewer.viewport.applyConstraints();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input, button, summary")) return;
  const factor = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, "_": 1 / 1.5 }[event.key]; // by the character, which keyboards have on different keys
  const layer = LAYERS[event.key];
  if (factor) zoom(factor);
  else if (layer) at(layer).click();
  else if (!panel.press(event.key) && !/^[a-z]$/i.test(event.key)) return; // no letter rotates or flips the slide
  event.stopPropagation();
  event.preventDefault();
}

async function copyLink() {
  writeLink(panel.chosen?.label ?? null);
  try {
    await navigator.clipboard.writeText(location.href);
    say("The link to this view is copied.");
  } catch {
    say(`The link to this view: ${location.href}`);
  }
}

function follow() {
  const view = readLink(), slide = slides.findIndex(({ name }) => name === view.slide);
  if (view.slide !== null && slide < 0) say(`There is no slide ${view.slide}.`);
  const wanted = Math.max(slide, 0), image = view.image < slides[wanted].images ? view.image : 0;
  const open = state.about && viewer.world.getItemCount() && state.slide === wanted && state.image === image;
  if (!open) return show(wanted, image, slide < 0 ? {} : view);
  if (view.mpp) goTo(view.x, view.y, view.mpp);
  return view.nucleus === null ? null : panel.choose(view.nucleus);
}

async function start() {
  [run, slides] = await Promise.all([fetchJson("/run.json"), fetchJson("/slides.json")]);
  fill(at("slide"), slides.map((s, n) => [String(n), s.label === null ? s.name : `${s.name} (${s.label})`]), "0");
  outlines = new OutlineLayer({ tile: run.outline_tile, cell: run.cell, onReady: draw });
  panel = new NucleusPanel({ run, show: onChoice, onReviews: draw });
  at("slide").addEventListener("change", () => show(Number(at("slide").value), 0));
  at("image").addEventListener("change", () => show(state.slide, Number(at("image").value)));
  for (const id of ["nuclei", "regions", "strength", "value"]) at(id).addEventListener("input", draw);
  for (const id of ["heatmap", "patches"]) at(id).addEventListener("input", heatmapChanged);
  at("feature").addEventListener("input", restyle);
  at("in").addEventListener("click", () => zoom(2));
  at("out").addEventListener("click", () => zoom(0.5));
  at("home").addEventListener("click", () => viewer.viewport.goHome());
  at("link").addEventListener("click", copyLink);
  for (const id of ["view", "nucleus"]) at(id).addEventListener("keydown", onKey, true);
  viewer.addHandler("update-viewport", drawNow);
  viewer.addHandler("animation-finish", later);
  viewer.addHandler("canvas-click", click);
  viewer.addHandler("open-failed", (event) => say(event.message));
  at("view").addEventListener("pointermove", (event) => {
    const box = at("view").getBoundingClientRect();
    if (state.about && viewer.world.getItemCount() && !event.buttons) hover({ x: event.clientX - box.left, y: event.clientY - box.top });
  });
  at("view").addEventListener("pointerleave", () => { state.hover = null; draw(); });
  window.addEventListener("hashchange", follow);
  window.addEventListener("resize", draw);
  await follow();
}

start().catch((error) => say(error.message));
