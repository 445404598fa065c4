"use strict";
// Maps and tables of units are made when they come into view: a large report holds tens of thousands of cells.

const SIGNED_STEPS = 41; // as in colors.py
const UNSIGNED_STEPS = 33;
const FIRST_ROWS = 12;
const AHEAD = "600px"; // how far below the screen things are made

const MAPS = [
  { name: "importance_ref", signed: true, scale: "importance", unit: "logits", title: "Importance, reference",
    caption: "What the metric loses when the unit is ablated in the reference, in logits. Strong blue: the metric needs this unit." },
  { name: "importance_cand", signed: true, scale: "importance", unit: "logits", title: "Importance, candidate",
    caption: "The same in the candidate, on the same scale. Good: it looks like the reference." },
  { name: "importance_change", signed: true, scale: "importance", unit: "logits", title: "Difference, candidate minus reference",
    caption: "How far each importance moved, in logits, on the same scale. Good: as plain as the background." },
  { name: "drift", signed: false, scale: "drift", unit: "relative", title: "Drift",
    caption: "How far what the unit writes moved, read in logits and relative to its norm. Good: plain; a full colour is the limit or the largest drift." },
  { name: "fragility", signed: false, scale: "fragility", unit: "logits", title: "Fragility",
    caption: "What that drift is expected to cost, in logits. Good: plain; a full colour is what the limit on metric change allows, or the largest." },
];

const COLUMNS = [
  { key: "place", title: "Unit" },
  { key: "importance_ref", title: "Importance, reference", interval: true },
  { key: "importance_cand", title: "Importance, candidate", interval: true },
  { key: "importance_change", title: "Change", interval: true },
  { key: "rank_ref", title: "Rank" },
  { key: "drift", title: "Drift" },
  { key: "drift_z", title: "Drift of z" },
  { key: "fragility", title: "Fragility" },
  { key: "repair_gain", title: "Repair" },
];

// As `short` in report/numbers.py.
function short(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 5e-4 || size >= 1e4) {
    return value.toExponential(1).replace("e+", "e");
  }
  return value.toFixed(size < 10 ? 3 : size < 100 ? 2 : 0);
}

// A text in which a unit is called what it is: `noun` for one, `nouns` for many.
function saidOf({ noun, nouns }, text) {
  return text.replace(/\b(U|u)nit(s?)\b/g, (_, first, many) => (first === "U" ? capital : String)(many ? nouns : noun));
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function escaped(text) {
  return text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
}

function count(value) {
  return value === null ? "–" : String(value);
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function announce(text) {
  document.getElementById("announcer").textContent = text;
}

// One run: its data, the unit that is looked at and the one that is pinned.
class Run {
  constructor(body) {
    this.body = body;
    this.data = JSON.parse(body.querySelector("[data-units]").textContent);
    this.size = this.data.layer.length;
    this.broken = new Set(this.data.broken);
    this.places = new Map(this.data.layer.map((layer, place) => [`${layer}.${this.data.column[place]}`, place]));
    this.pinned = null;
    this.shown = null;
    this.sorted = { key: null, down: true }; // as the report orders them: broken ones first, then by fragility
    this.rows = FIRST_ROWS;
    this.wanted = ""; // what units' names are searched for
    this.makeMaps();
    this.makeTable();
    this.findPoints();
  }

  name(place) {
    return this.data.unit[place];
  }

  called(place) {
    return `${capital(this.data.noun)} ${this.name(place)}`;
  }

  say(text) {
    return saidOf(this.data, text);
  }

  interval(key, place) {
    const low = this.data[`${key}_low`][place];
    const high = this.data[`${key}_high`][place];
    return low === null && high === null ? "" : `[${short(low)}, ${short(high)}]`;
  }

  // --- maps ---

  makeMaps() {
    const layers = Math.max(...this.data.layer) + 1;
    const columns = this.data.names.length;
    const holder = this.body.querySelector("[data-maps]");
    holder.style.setProperty("--columns", columns);
    holder.classList.toggle("dense", columns > 16);
    this.grids = this.data.many ? [] : MAPS.map((map) => this.makeMap(map, layers, columns));
    this.panel = make("div", { class: "panel", role: "group", "aria-label": this.say("The unit's numbers") });
    holder.replaceChildren(...this.grids.map((grid) => grid.figure), this.panel);
    this.show(null);
  }

  makeMap(map, layers, columns) {
    const title = `${map.title}`;
    const top = this.data.scales[map.scale];
    const legend = make("div", { class: "scale" },
      make("span", {}, map.signed ? short(-top) : "0"),
      make("i", { class: map.signed ? "signed" : "unsigned" }),
      make("span", {}, `${short(top)} ${map.unit === "relative" ? "" : map.unit}`));
    const table = make("table", {
      role: "grid", "aria-label": `${title}, ${this.body.dataset.name}`, class: "map", "aria-readonly": "true",
    });
    table.innerHTML = this.mapRows(map, layers, columns, top); // numbers and escaped labels only
    const figure = make("figure", {}, make("h5", {}, title), make("p", { class: "caption" }, this.say(map.caption)), table, legend);
    const grid = { figure, table, cells: new Array(this.size) };
    for (const cell of table.querySelectorAll("[data-place]")) grid.cells[cell.dataset.place] = cell;
    grid.cells[0].tabIndex = 0;
    table.addEventListener("pointerover", (event) => this.onPoint(event));
    table.addEventListener("pointerleave", () => this.show(this.pinned));
    table.addEventListener("focusin", (event) => this.onFocus(event, grid));
    table.addEventListener("focusout", () => this.show(this.pinned));
    table.addEventListener("click", (event) => this.onClick(event));
    table.addEventListener("keydown", (event) => this.onKey(event));
    return grid;
  }

  mapRows(map, layers, columns, top) {
    const every = columns > 16 ? 4 : 1;
    const quiet = (number) => (number % every ? ' class="quiet"' : "");
    let rows = "<thead><tr><td></td>";
    this.data.names.forEach((name, column) => {
      const shown = escaped(name);
      rows += `<th scope="col"${quiet(column)} aria-label="${this.data.noun} ${shown}">${shown}</th>`;
    });
    rows += "</tr></thead><tbody>";
    const values = this.data[map.name];
    for (let layer = 0; layer < layers; layer++) {
      rows += `<tr><th scope="row"${quiet(layer)} aria-label="layer ${layer}">${layer}</th>`;
      for (let column = 0; column < columns; column++) {
        const place = this.places.get(`${layer}.${column}`);
        rows += place === undefined ? "<td></td>" : this.cell(map, place, values[place], top);
      }
      rows += "</tr>";
    }
    return rows + "</tbody>";
  }

  cell(map, place, value, top) {
    const shade = this.shade(map, value, top);
    const broken = this.broken.has(place) ? " broken" : "";
    const said = value === null ? "not measured" : short(value);
    return `<td role="gridcell" tabindex="-1" data-place="${place}" class="${shade}${broken}" aria-selected="false"` +
      ` aria-label="${this.data.noun} ${escaped(this.name(place))}: ${said}${broken && ", broken"}"></td>`;
  }

  shade(map, value, top) {
    if (value === null) return "unknown";
    const share = Math.max(-1, Math.min(1, value / top));
    if (!map.signed) return `u${Math.round(Math.max(0, share) * (UNSIGNED_STEPS - 1))}`;
    return `s${Math.round(((share + 1) / 2) * (SIGNED_STEPS - 1))}`;
  }

  // --- which unit ---

  placeOf(target) {
    const cell = target.closest("[data-place]");
    return cell ? Number(cell.dataset.place) : null;
  }

  onPoint(event) {
    const place = this.placeOf(event.target);
    if (place !== null && event.pointerType !== "touch") this.show(place);
  }

  onFocus(event, grid) {
    const place = this.placeOf(event.target);
    if (place === null) return;
    for (const cell of grid.table.querySelectorAll('[tabindex="0"]')) cell.tabIndex = -1;
    event.target.tabIndex = 0;
    this.show(place);
  }

  onClick(event) {
    const place = this.placeOf(event.target);
    if (place !== null) this.pin(place === this.pinned ? null : place);
  }

  onKey(event) {
    const place = this.placeOf(event.target);
    if (place === null) return;
    const row = event.target.parentElement;
    const column = event.target.cellIndex;
    const cells = row.querySelectorAll("[data-place]");
    const targets = {
      ArrowLeft: () => event.target.previousElementSibling,
      ArrowRight: () => event.target.nextElementSibling,
      ArrowUp: () => row.previousElementSibling?.cells[column],
      ArrowDown: () => row.nextElementSibling?.cells[column],
      Home: () => cells[0],
      End: () => cells[cells.length - 1],
    };
    if (targets[event.key]) {
      const next = targets[event.key]();
      if (next?.dataset.place !== undefined) next.focus();
    } else if (event.key === "Enter" || event.key === " ") {
      this.pin(place === this.pinned ? null : place);
    } else if (event.key === "Escape") {
      this.pin(null);
    } else {
      return;
    }
    event.preventDefault();
  }

  pin(place) {
    this.mark(this.pinned, "pinned", false);
    for (const grid of this.grids) {
      if (this.pinned !== null) grid.cells[this.pinned].setAttribute("aria-selected", "false");
      if (place !== null) grid.cells[place].setAttribute("aria-selected", "true");
    }
    const before = this.pinned;
    this.pinned = place;
    this.mark(place, "pinned", true);
    this.show(place);
    this.markRows();
    if (place !== null) announce(`Pinned. ${this.inWords(place)}`);
    else if (before !== null) announce(`${this.called(before)} is no longer pinned.`);
  }

  inWords(place) {
    const { data } = this;
    return `${this.called(place)}${this.broken.has(place) ? ", broken" : ""}: importance ` +
      `${short(data.importance_ref[place])} in the reference, ${short(data.importance_cand[place])} in the candidate; ` +
      `drift ${short(data.drift[place])}, of z ${short(data.drift_z[place])}; fragility ${short(data.fragility[place])}.`;
  }

  mark(place, name, on) {
    if (place === null) return;
    for (const grid of this.grids) grid.cells[place].classList.toggle(name, on);
    this.points?.get(place)?.classList.toggle(name, on);
  }

  show(place) {
    // The panel must not change under a click on its button, though the focus leaves the map.
    if (place === this.shown && this.pinned === this.drawnPinned && this.panel.firstChild) return;
    this.drawnPinned = this.pinned;
    this.mark(this.shown, "looked", false);
    this.shown = place;
    this.mark(place, "looked", true);
    this.panel.classList.toggle("empty", place === null);
    if (place === null) {
      this.panel.replaceChildren(make("p", {}, this.say("Point at, tap or move to a unit to read its numbers.")));
      return;
    }
    this.panel.replaceChildren(this.panelTitle(place), this.panelNumbers(place));
  }

  panelTitle(place) {
    const title = make("p", { class: "title" }, make("strong", {}, this.called(place)));
    if (this.broken.has(place)) title.append(" ", make("span", { class: "tag" }, "broken"));
    if (place === this.pinned) {
      const button = make("button", { type: "button", class: "unpin" }, "Unpin");
      button.addEventListener("click", (event) => {
        this.pin(null);
        if (event.detail === 0) this.grids[0]?.cells[place].focus(); // pressed by keyboard: the button is gone
      });
      title.append(" ", make("span", { class: "tag plain" }, "pinned"), " ", button);
    }
    return title;
  }

  panelNumbers(place) {
    const { data } = this;
    const rows = [
      ["Importance, reference", `${short(data.importance_ref[place])} ${this.interval("importance_ref", place)}`],
      ["Importance, candidate", `${short(data.importance_cand[place])} ${this.interval("importance_cand", place)}`],
      ["Change", `${short(data.importance_change[place])} ${this.interval("importance_change", place)}`],
      ["Rank", `${count(data.rank_ref[place])} → ${count(data.rank_cand[place])}`],
      ["Drift", short(data.drift[place])],
      ["Drift of z", short(data.drift_z[place])],
      ["Drift at the answer", short(data.drift_answer[place])],
      ["Cosine, at the answer", `${short(data.cosine[place])}, ${short(data.cosine_answer[place])}`],
      ["Fragility", short(data.fragility[place])],
      ["Repair of it alone", short(data.repair_gain[place])],
    ];
    return make("dl", {}, ...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  }

  // --- the drift chart's points ---

  findPoints() {
    const holder = this.body.querySelector("[data-drift]");
    const group = holder?.querySelector("g.heads");
    if (!group) return;
    const places = JSON.parse(holder.dataset.drift);
    const points = [...group.querySelectorAll("use, path")].filter((point) => !point.closest("defs"));
    this.points = new Map(places.map((place, number) => [place, points[number]]));
    points.forEach((point, number) => (point.dataset.place = places[number]));
    group.addEventListener("pointerover", (event) => this.onPoint(event));
    group.addEventListener("pointerout", () => this.show(this.pinned));
    group.addEventListener("click", (event) => this.onClick(event));
  }

  // --- the table ---

  makeTable() {
    const holder = this.body.querySelector("[data-table]");
    const head = make("tr");
    this.headings = COLUMNS.map((column) => {
      const button = make("button", { type: "button" }, this.say(column.title));
      button.addEventListener("click", () => this.sort(column));
      const cell = make("th", { scope: "col", ...(column.key === "place" ? {} : { class: "n" }) }, button);
      head.append(cell);
      return cell;
    });
    this.tbody = make("tbody");
    const table = make("table", { class: "units" },
      make("caption", { class: "hidden" }, `Fragility table, ${this.body.dataset.name}`), make("thead", {}, head), this.tbody);
    const scroller = make("div", { class: "scroller", role: "group", "aria-label": `Fragility table, ${this.body.dataset.name}` }, table);
    this.tbody.addEventListener("click", (event) => {
      if (event.target.closest("button")) this.onClick(event);
    });
    this.more = make("button", { type: "button", class: "screen" });
    this.more.addEventListener("click", () => {
      this.rows = this.rows === FIRST_ROWS ? this.size : FIRST_ROWS;
      this.fill();
    });
    const search = make("input", { type: "search", class: "screen" });
    search.addEventListener("input", () => {
      this.wanted = search.value.trim().toLowerCase();
      this.fill();
      announce(`${this.found.length} ${this.data.nouns} found.`);
    });
    const label = make("label", { class: "screen search" }, this.say("Search units: "), search);
    holder.replaceChildren(label, scroller, this.more);
    this.fill();
    watchOverflow(scroller);
  }

  sort(column) {
    const same = this.sorted.key === column.key;
    const upFirst = column.key === "place" || column.key === "rank_ref";
    this.sorted = { key: column.key, down: same ? !this.sorted.down : !upFirst };
    this.fill();
    announce(`Sorted by ${this.say(column.title)}, ${this.sorted.down ? "largest" : "smallest"} first.`);
  }

  order() {
    const { key, down } = this.sorted;
    const values = key === "place" ? null : this.data[key];
    if (key === null) return [...this.data.order];
    const places = [...Array(this.size).keys()];
    if (!values) return down ? places.reverse() : places;
    const direction = down ? -1 : 1;
    // What was not measured comes last either way.
    return places.sort((a, b) => {
      if (values[a] === null || values[b] === null) return (values[a] === null) - (values[b] === null) || a - b;
      return direction * (values[a] - values[b]) || a - b;
    });
  }

  fill() {
    COLUMNS.forEach((column, number) => {
      const down = this.sorted.down ? "descending" : "ascending";
      this.headings[number].setAttribute("aria-sort", column.key === this.sorted.key ? down : "none");
    });
    this.found = this.order().filter((place) => this.name(place).toLowerCase().includes(this.wanted));
    this.tbody.innerHTML = this.found.slice(0, this.rows).map((place) => this.row(place)).join(""); // numbers and escaped labels only
    this.more.hidden = this.found.length <= FIRST_ROWS;
    this.more.textContent = this.rows === FIRST_ROWS ? `Show all ${this.found.length} ${this.data.nouns}` : `Show the first ${FIRST_ROWS}`;
    this.markRows();
  }

  row(place) {
    const { data } = this;
    const cells = COLUMNS.slice(1).map(({ key, interval }) => {
      if (key === "rank_ref") return `<td class="n">${count(data.rank_ref[place])} → ${count(data.rank_cand[place])}</td>`;
      const bounds = interval ? ` <span class="interval">${this.interval(key, place)}</span>` : "";
      return `<td class="n">${short(data[key][place])}${bounds}</td>`;
    });
    const label = escaped(this.name(place));
    const broken = this.broken.has(place) ? ' <span class="tag">broken</span>' : "";
    return `<tr data-row="${place}"><th scope="row"><button type="button" data-place="${place}" aria-pressed="false"` +
      ` aria-label="Pin ${this.data.noun} ${label}">${label}</button>${broken}</th>${cells.join("")}</tr>`;
  }

  markRows() {
    if (!this.tbody) return;
    for (const row of this.tbody.rows) {
      const pinned = Number(row.dataset.row) === this.pinned;
      row.classList.toggle("pinned", pinned);
      row.querySelector("button").setAttribute("aria-pressed", String(pinned));
    }
  }
}

// --- the page ---

const runs = new Map();

function build(body) {
  if (!runs.has(body) && body.querySelector("[data-units]")) runs.set(body, new Run(body));
}

const arriving = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    arriving.unobserve(entry.target);
    build(entry.target.closest("[data-run]"));
  }
}, { rootMargin: AHEAD });

// A table that is wider than the screen scrolls, so the keyboard must reach it.
const widths = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});

function watchOverflow(scroller) {
  widths.observe(scroller);
}

function openAll(open) {
  for (const details of document.querySelectorAll("details.run")) details.open = open;
}

function openTarget() {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const details = target && target.closest("details");
  if (!details) return;
  details.open = true;
  target.scrollIntoView();
}

// What is open is printed, whole.
function beforePrint() {
  for (const body of document.querySelectorAll("details.run[open] [data-run]")) build(body);
}

for (const maps of document.querySelectorAll("[data-maps]")) arriving.observe(maps);
for (const scroller of document.querySelectorAll(".scroller")) watchOverflow(scroller);
document.getElementById("open-all")?.addEventListener("click", () => openAll(true));
document.getElementById("close-all")?.addEventListener("click", () => openAll(false));
window.addEventListener("hashchange", openTarget);
window.addEventListener("beforeprint", beforePrint);
openTarget();
