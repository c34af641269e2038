// The slide itself: deep zoom, where one is, how large things are, and the link to this view.
/* global OpenSeadragon */
"use strict";
import { at, format } from "./api.js";

const BAR_PX = 140; // a scale bar is at most so long
const UM_AT_ONE = 10; // magnification 1 is so many um per pixel: 40 is 0.25

export const viewer = OpenSeadragon({
  element: at("view"), showNavigationControl: false, drawer: "canvas", crossOriginPolicy: false,
  maxZoomPixelRatio: 16, minZoomImageRatio: 0.7, visibilityRatio: 0.3, animationTime: 0.4, preserveImageSizeOnResize: true,
  gestureSettingsMouse: { clickToZoom: false }, gestureSettingsTouch: { clickToZoom: false }, gestureSettingsPen: { clickToZoom: false },
});

let about = null, shownIn = {};

export function openImage(root, found, name) {
  [about, shownIn] = [found, name];
  viewer.open({
    width: about.width, height: about.height, tileSize: about.tile, tileOverlap: 0,
    getTileUrl: (level, x, y) => `${root}/tiles/${level}/${x}_${y}.jpg`,
  });
}

/** Where level-0 pixel 0, 0 is on screen, and screen pixels per level-0 pixel, now and after the movement. */
export function position() {
  const zero = viewer.viewport.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
  const far = viewer.viewport.imageToViewerElementCoordinates(new OpenSeadragon.Point(about.width, 0));
  const target = viewer.viewport.viewportToImageZoom(viewer.viewport.getZoom(false));
  return { left: zero.x, top: zero.y, scale: (far.x - zero.x) / about.width, target };
}

/** The level-0 place under a place of the view. */
export function imagePoint({ x, y }) { return viewer.viewport.viewerElementToImageCoordinates(new OpenSeadragon.Point(x, y)); }

/** Bring a level-0 place to the middle, at so many um per screen pixel. */
export function goTo(x, y, mpp, immediately = true) {
  const { viewport } = viewer;
  viewport.zoomTo(viewport.imageToViewportZoom(about.mpp / mpp), null, immediately);
  viewport.panTo(viewport.imageToViewportCoordinates(x, y), immediately);
}

// The link: what follows # says slide, image, middle (level-0 pixels) and um per screen pixel.

export function readLink() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (parts.get(name) !== null && Number.isFinite(Number(parts.get(name))) ? Number(parts.get(name)) : null);
  return { slide: parts.get("slide"), image: number("image") ?? 0, x: number("x"), y: number("y"), mpp: number("mpp"), nucleus: number("nucleus") };
}

export function writeLink(nucleus = null) {
  if (!about || !viewer.world.getItemCount()) return;
  const middle = viewer.viewport.viewportToImageCoordinates(viewer.viewport.getCenter(false));
  const parts = new URLSearchParams({ slide: shownIn.slide, image: shownIn.image, x: middle.x.toFixed(0), y: middle.y.toFixed(0), mpp: (about.mpp / position().target).toPrecision(4) });
  if (nucleus !== null) parts.set("nucleus", nucleus);
  history.replaceState(null, "", `/#${parts}`);
}

// What stands on the slide: scale bar, magnification, coordinates.

function niceLength(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return [5, 2, 1].map((n) => n * power).find((length) => length <= most) ?? power;
}

export function drawScale(scale) {
  const perPixel = about.mpp / scale, um = niceLength(perPixel * BAR_PX);
  at("bar").style.width = `${(um / perPixel).toFixed(1)}px`;
  at("bar-text").textContent = um >= 1000 ? `${format(um / 1000)} mm` : `${format(um)} µm`;
  at("magnification").textContent = `${format(UM_AT_ONE / perPixel, 2)}×`;
  at("magnification").title = `${format(perPixel)} µm per pixel of the screen; 0.25 is called 40×`;
}

export function sayPlace(point) {
  const whole = (v) => Math.round(v).toLocaleString("en");
  at("place").textContent = point ? `x ${whole(point.x)}, y ${whole(point.y)} px` : "";
}
