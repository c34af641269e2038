"use strict";
/* global OpenSeadragon */
history.replaceState(null, "", "/"); // the token stays out of the history; a cookie has it
const at = (id) => document.getElementById(id);
const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const STOPS = VIRIDIS.map((c) => [1, 3, 5].map((n) => parseInt(c.slice(n, n + 2), 16)));
const SMALLEST_PATCH_PX = 90; // outlines of nuclei are drawn from this size of a patch on screen
const state = { slide: 0, image: 0, about: null, outlines: new Map() };

function color(share) {
  const x = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1);
  const low = Math.min(Math.floor(x), STOPS.length - 2);
  const mix = STOPS[low].map((v, n) => Math.round(v + (x - low) * (STOPS[low + 1][n] - v)));
  return `rgb(${mix.join(" ")})`;
}

function scaled(value, limits) {
  const [low, high] = limits;
  return high > low ? (value - low) / (high - low) : 0.5;
}

const viewer = OpenSeadragon({
  element: at("view"), showNavigationControl: false, drawer: "canvas", crossOriginPolicy: false,
  maxZoomPixelRatio: 8, minZoomImageRatio: 0.7, visibilityRatio: 0.3, animationTime: 0.4, preserveImageSizeOnResize: true,
});
const layers = document.createElement("canvas");
layers.className = "layers";
layers.setAttribute("aria-hidden", "true");
at("view").append(layers);

async function fetchJson(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer.json();
}

function say(text) { at("status").textContent = text; }

function fill(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => {
    const option = document.createElement("option");
    option.value = value;
    option.textContent = text;
    return option;
  }));
  if (entries.some(([value]) => value === chosen)) select.value = chosen;
}

async function show(slide, image) {
  Object.assign(state, { slide, image, about: null });
  state.outlines.clear();
  say("Opening the slide.");
  let about;
  try {
    about = await fetchJson(`/slides/${slide}/${image}.json`);
  } catch (error) {
    viewer.close();
    say(error.message);
    return;
  }
  if (state.slide !== slide || state.image !== image) return;
  state.about = about;
  fill(at("value"), Object.entries(about.names), at("value").value || "density_per_mm2");
  const features = Object.entries(about.nuclei).map(([name, f]) => [name, f.name]);
  const byType = about.types.length ? [["type", "type"]] : [];
  const wanted = about.types.length ? "type" : "area_um2";
  fill(at("feature"), [["", "one color"], ...byType, ...features], at("feature").value || wanted);
  listTypes(about.types);
  at("about").textContent = `${about.width} × ${about.height} px, ${about.mpp.toPrecision(3)} µm per px, ` +
    `${about.patches.filter((p) => p.kept).length} of ${about.patches.length} patches kept`;
  viewer.open({
    width: about.width, height: about.height, tileSize: about.tile, tileOverlap: 0,
    getTileUrl: (level, x, y) => `/slides/${slide}/${image}/tiles/${level}/${x}_${y}.jpg`,
  });
}

// A layer for each type, with its color.
function listTypes(types) {
  const hidden = hiddenTypes();
  at("types").replaceChildren(...types.map(({ name, color: dot, nuclei }) => {
    const label = document.createElement("label"), box = document.createElement("input"), mark = document.createElement("i");
    Object.assign(box, { type: "checkbox", value: name, checked: !hidden.has(name) });
    box.addEventListener("input", draw);
    mark.style.background = dot;
    label.append(box, " ", mark, `${name} (${nuclei.toLocaleString("en")})`);
    return label;
  }));
}

function hiddenTypes() {
  return new Set([...at("types").querySelectorAll("input:not(:checked)")].map((box) => box.value));
}

function place(x, y) {
  const point = viewer.viewport.imageToViewerElementCoordinates(new OpenSeadragon.Point(x, y));
  return [point.x, point.y];
}

function drawScale() {
  const context = at("scale").getContext("2d");
  for (let x = 0; x < 220; x += 1) { context.fillStyle = color(x / 219); context.fillRect(x, 0, 1, 14); }
}

function sayLimits() {
  const about = state.about, lines = [];
  const name = at("value").value, feature = at("feature").value;
  const number = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 });
  const text = ([low, high]) => `${number(low)} to ${number(high)}`;
  if (at("heatmap").checked && about.limits[name]) lines.push(`${about.names[name]}: ${text(about.limits[name])}`);
  if (at("nuclei").checked && about.nuclei[feature]) {
    lines.push(`Nuclei, ${about.nuclei[feature].name}: ${text(about.nuclei[feature].limits)}`);
  }
  at("limits").textContent = lines.length ? `Colors: ${lines.join("; ")} (2nd to 98th percentile)` : "";
}

function draw() {
  if (!state.about || !viewer.world.getItemCount()) return;
  const ratio = window.devicePixelRatio || 1, box = at("view").getBoundingClientRect();
  const width = Math.round(box.width * ratio), height = Math.round(box.height * ratio);
  if (layers.width !== width || layers.height !== height) {
    Object.assign(layers, { width, height });
    layers.style.width = `${box.width}px`;
    layers.style.height = `${box.height}px`;
  }
  const context = layers.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, box.width, box.height);
  const counts = { heatmap: 0, patches: 0, nuclei: 0 };
  const values = state.about.values[at("value").value], limits = state.about.limits[at("value").value];
  const visible = [];
  state.about.patches.forEach((patch, number) => {
    const [x, y] = place(patch.x_px, patch.y_px);
    const side = place(patch.x_px + patch.side_px, patch.y_px)[0] - x;
    if (x > box.width || y > box.height || x + side < 0 || y + side < 0) return;
    if (at("heatmap").checked && values && values[number] !== null) {
      context.globalAlpha = Number(at("strength").value);
      context.fillStyle = color(scaled(values[number], limits));
      context.fillRect(x, y, side, side);
      counts.heatmap += 1;
    }
    context.globalAlpha = 1;
    if (at("patches").checked) {
      context.strokeStyle = patch.kept ? "#0072B2" : "#767676";
      context.lineWidth = patch.kept ? 1.5 : 0.75;
      context.setLineDash(patch.kept ? [] : [4, 3]);
      context.strokeRect(x, y, side, side);
      context.setLineDash([]);
      counts.patches += 1;
    }
    if (patch.kept && side >= SMALLEST_PATCH_PX) visible.push(patch);
  });
  // Above all patches, since nuclei reach past the border of theirs.
  if (at("nuclei").checked) for (const patch of visible) counts.nuclei += drawNuclei(context, patch);
  layers.dataset.heatmap = counts.heatmap;
  layers.dataset.patches = counts.patches;
  layers.dataset.nuclei = counts.nuclei;
  layers.dataset.zoom = viewer.viewport.getZoom(true).toFixed(4);
  sayLimits();
}

function drawNuclei(context, patch) {
  const key = `${state.slide}/${patch.patch_id}`, known = state.outlines.get(key);
  if (known === undefined) {
    state.outlines.set(key, null);
    fetchJson(`/slides/${state.slide}/nuclei/${patch.patch_id}.json`).then((found) => {
      state.outlines.set(key, found);
      draw();
    }, (error) => say(error.message));
  }
  if (!known) return 0;
  const feature = state.about.nuclei[at("feature").value], hidden = hiddenTypes();
  const dots = at("feature").value === "type" ? new Map(state.about.types.map((t) => [t.name, t.color])) : null;
  const shown = known.filter((nucleus) => !hidden.has(nucleus.type));
  for (const nucleus of shown) {
    context.beginPath();
    for (let n = 0; n < nucleus.ring.length; n += 2) context.lineTo(...place(nucleus.ring[n], nucleus.ring[n + 1]));
    context.closePath();
    const value = feature ? nucleus.values[at("feature").value] : undefined;
    context.strokeStyle = feature || dots ? "white" : "black";
    context.lineWidth = 3;
    context.stroke();
    context.strokeStyle = dots ? dots.get(nucleus.type) : !feature ? "#F0E442" : value === null ? "#767676" : color(scaled(value, feature.limits));
    context.lineWidth = 1.6;
    context.stroke();
  }
  return shown.length;
}

async function start() {
  const slides = await fetchJson("/slides.json");
  fill(at("slide"), slides.map((s, n) => [String(n), `${s.name} (${s.label})`]), "0");
  const open = (slide) => {
    const images = slides[slide].images;
    at("image-row").hidden = images < 2;
    fill(at("image"), Array.from({ length: images }, (_, n) => [String(n), String(n + 1)]), "0");
    show(slide, 0);
  };
  at("slide").addEventListener("change", () => open(Number(at("slide").value)));
  at("image").addEventListener("change", () => show(state.slide, Number(at("image").value)));
  for (const id of ["heatmap", "patches", "nuclei", "value", "feature", "strength"]) at(id).addEventListener("input", draw);
  at("in").addEventListener("click", () => { viewer.viewport.zoomBy(2); viewer.viewport.applyConstraints(); });
  at("out").addEventListener("click", () => { viewer.viewport.zoomBy(0.5); viewer.viewport.applyConstraints(); });
  at("home").addEventListener("click", () => viewer.viewport.goHome());
  at("view").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const zoom = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, "_": 1 / 1.5 }[event.key];
    if (zoom) { // by the character, which keyboards have on different keys
      viewer.viewport.zoomBy(zoom);
      viewer.viewport.applyConstraints();
      event.stopPropagation();
      return;
    }
    const id = { 1: "heatmap", 2: "patches", 3: "nuclei" }[event.key];
    if (!id) return;
    at(id).checked = !at(id).checked;
    draw();
  }, true);
  viewer.addHandler("update-viewport", draw);
  viewer.addHandler("open", () => {
    const name = at("slide").selectedOptions[0].textContent;
    document.title = name;
    viewer.canvas.setAttribute("aria-label", `Slide ${name}`);
    say(`Slide ${name} is open.`);
  });
  viewer.addHandler("open-failed", (event) => say(event.message));
  drawScale();
  open(0);
}

start().catch((error) => say(error.message));
