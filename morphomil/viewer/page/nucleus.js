// The panel of one nucleus: what is measured of it, what a reviewer says of it, and the gallery.
"use strict";
import { at, element, fetchJson, format, postJson, say } from "./api.js";

const RETYPE = { e: "epithelial", l: "lymphocyte", s: "stroma", o: "other" };
const DONE = { accept: "accepted", reject: "rejected", retype: "is" };

export class NucleusPanel {
  /** `show(nucleus)`: the chosen one has changed, null if none is; `onReviews`: reviews have. */
  constructor({ run, show, onReviews }) {
    Object.assign(this, { run, show, onReviews, slide: 0, chosen: null, reviews: [], rank: null });
    at("close").addEventListener("click", () => this.close());
    for (const button of document.querySelectorAll("[data-decision]")) {
      button.addEventListener("click", () => this.decide(button.dataset.decision, button.dataset.type));
    }
    at("next").addEventListener("click", () => this.step(1));
    at("previous").addEventListener("click", () => this.step(-1));
    for (const id of ["gallery", "gallery-of"]) at(id).addEventListener("input", () => { this.rank = null; this.sayGallery(); });
    at("reviewer").textContent = run.reviewer || "nobody: start with --reviewer NAME";
    this.sayGallery();
  }

  async open(slide, columns) {
    Object.assign(this, { slide, columns, rank: null, reviews: [] });
    this.close();
    at("gallery-of").replaceChildren(...columns.map(({ column, name }) => element("option", { value: column, textContent: name })));
    this.sayGallery();
    this.reviews = await fetchJson(`/slides/${slide}/reviews.json`);
    this.onReviews();
  }

  close() {
    this.chosen = null;
    at("nucleus").hidden = true;
    this.show(null);
  }

  async choose(label) { return this.read(`/slides/${this.slide}/nuclei/${label}.json`); }

  async read(path) {
    const slide = this.slide;
    try {
      const found = await fetchJson(path);
      if (slide !== this.slide) return;
      this.chosen = found;
      this.describe();
      this.show(found);
      if (!found.complete) setTimeout(() => this.complete(found), 1000);
    } catch (error) { say(error.message); }
  }

  /** Ask for the percentiles, which are there when the cohort is read. */
  async complete(asked) {
    if (this.chosen?.label !== asked.label) return;
    const found = await fetchJson(`/slides/${this.slide}/nuclei/${asked.label}.json`);
    if (this.chosen?.label !== asked.label) return;
    this.chosen = { ...this.chosen, ...found };
    if (found.complete) this.describe();
    else setTimeout(() => this.complete(asked), 1000);
  }

  // The gallery: nuclei in an order, one after the other.

  async step(by) {
    if (!this.columns?.length) return;
    const end = at("gallery").value, rank = Math.max((this.rank ?? this.done(end, by)) + by, 0);
    await this.read(`/slides/${this.slide}/gallery/${end}/${at("gallery-of").value}/${rank}.json`);
    if (this.chosen?.rank === rank) this.rank = rank;
    this.sayGallery();
  }

  /** Where one has come to, as far as that is known: the last of the sample that one has decided on. */
  done(end, by) {
    const mine = this.reviews.filter((one) => one.reviewer === this.run.reviewer && one.random_rank !== null);
    return end === "random" && by > 0 ? Math.max(-1, ...mine.map((one) => one.random_rank)) : Math.min(-by, 0);
  }

  /** Reviews that may be seen: one's own, and those of others on nuclei that one has decided on. */
  seen(image) {
    const decided = new Set(this.reviews.filter((one) => one.reviewer === this.run.reviewer).map((one) => one.label));
    return this.reviews.filter((one) => one.image === image && decided.has(one.label));
  }

  sayGallery() {
    const random = at("gallery").value === "random";
    at("gallery-row").hidden = random;
    const text = random ? "A random sample is what agreement is counted in." : "";
    const place = this.rank === null || !this.chosen?.count ? "" : `${(this.rank + 1).toLocaleString("en")} of ${this.chosen.count.toLocaleString("en")}. `;
    at("gallery-place").textContent = place + text;
  }

  // What is known of the chosen one.

  describe() {
    const { label, type, type_probability: sure, x, y, patch, measured, contributed } = this.chosen;
    at("nucleus").hidden = false;
    at("nucleus-name").textContent = `Nucleus ${label}`;
    const how = sure === null ? "" : ` (probability ${format(sure, 2)})`;
    at("nucleus-about").textContent = `${type === "unknown" ? "type not known" : type}${how}; patch ${patch}; x ${Math.round(x)}, y ${Math.round(y)} px`;
    at("measured").replaceChildren(...measured.map(tableRow));
    at("contributed").replaceChildren(...contributed.map(tableRow));
    at("contributions").hidden = !contributed.length;
    const decision = this.sayReviews(), total = contributed[0];
    const rank = ({ percentile }) => (percentile === null ? "" : `, percentile ${format(percentile)} of the cohort`);
    say(`Nucleus ${label}, ${type}. ${measured[0].name} ${format(measured[0].value)}${rank(measured[0])}. ` +
      `${total && total.value !== null ? `Contribution ${format(total.value)} percentage points. ` : ""}${decision}`);
  }

  mine() { return this.reviews.find((one) => one.label === this.chosen.label && one.reviewer === this.run.reviewer); }

  sayReviews() {
    const mine = this.mine(), whole = (one) => `${DONE[one.decision]}${one.type ? ` ${one.type}` : ""}`;
    const others = this.reviews.filter((one) => one.label === this.chosen.label && one !== mine);
    const text = mine ? `You: ${whole(mine)}, ${mine.time.slice(0, 16).replace("T", " ")} UTC.` : "Not reviewed by you.";
    // What others say is told to who has decided.
    const rest = mine ? others.map((one) => ` ${one.reviewer}: ${whole(one)}.`).join("") : "";
    at("decision").textContent = text + rest;
    for (const button of document.querySelectorAll("[data-decision]")) {
      const same = mine?.decision === button.dataset.decision && (mine.type ?? undefined) === button.dataset.type;
      if (button.dataset.decision === "withdraw") button.disabled = !mine;
      else button.setAttribute("aria-pressed", String(Boolean(same)));
    }
    return text;
  }

  async decide(decision, type) {
    if (!this.chosen) return;
    const { label, rank } = this.chosen, sampled = at("gallery").value === "random" && rank !== undefined;
    try {
      const value = { label, decision, ...(type ? { type } : {}), ...(sampled ? { random_rank: rank } : {}) };
      this.reviews = await postJson(`/slides/${this.slide}/reviews.json`, value);
    } catch (error) {
      say(error.message);
      return;
    }
    this.onReviews();
    say(`Nucleus ${label}: ${this.sayReviews()}`);
    if (decision !== "withdraw" && rank !== undefined && at("go-on").checked) await this.step(1);
  }

  /** Whether a key was one of the panel's. */
  press(key) {
    const small = key.toLowerCase();
    if (small === "n" || small === "p") this.step(small === "n" ? 1 : -1);
    else if (!this.chosen) return false;
    else if (key === "Escape") this.close();
    else if (small === "a") this.decide("accept");
    else if (small === "r" || small === "x") this.decide("reject");
    else if (small === "u") this.decide("withdraw");
    else if (RETYPE[small]) this.decide("retype", RETYPE[small]);
    else return false;
    return true;
  }
}

function tableRow({ name, value, percentile }) {
  const meter = element("td", { className: "rank" });
  if (percentile !== null) {
    const bar = element("span", { className: "meter" }, element("i"));
    bar.firstChild.style.width = `${percentile}%`;
    bar.setAttribute("aria-hidden", "true");
    meter.append(bar, format(percentile));
  }
  const head = element("th", { scope: "row", textContent: name });
  return element("tr", {}, head, element("td", { textContent: format(value) }), meter);
}
