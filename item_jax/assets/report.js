"use strict";
// The images of the report: filters, pages, one image in detail. No library, no network.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 24;
  const DASHES = { fake: "", real: "6 4", none: "1 3" };
  const SVG = "http://www.w3.org/2000/svg";
  const byId = (id) => document.getElementById(id);
  const form = byId("filters");
  const fields = form.elements;
  const count = data.keys.length;
  const number = new Intl.NumberFormat("en");

  let shown = []; // numbers of the images that the filters let through, in order
  let page = 0;
  let open = -1; // place in `shown` of the image in detail

  // ---- The numbers -------------------------------------------------------------------

  const threshold = (method) => data.methods[method].threshold;
  const score = (method, i) => data.methods[method].scores[i];
  const says = (method, i) => (score(method, i) > threshold(method) ? 1 : 0);

  // How far a score is from the threshold, in [0, 1] on either side of it.
  function sureness(p, t) {
    if (p > t) return (p - t) / (1 - t);
    return t > 0 ? (t - p) / t : 0;
  }

  function select() {
    const method = Number(fields.method.value);
    const t = threshold(method);
    const scores = data.methods[method].scores;
    const label = fields.label.value;
    const result = fields.result.value;
    const words = fields.search.value.trim().toLowerCase();
    const pictures = fields.pictures.checked;
    const group = fields.generator.value;
    const numbers = group === "" ? data.keys.keys() : data.groups[group].rows;
    shown = [];
    for (const i of numbers) {
      if (label !== "" && data.labels[i] !== Number(label)) continue;
      if (result !== "") {
        if (data.labels[i] < 0) continue;
        const right = (scores[i] > t ? 1 : 0) === data.labels[i];
        if (right !== (result === "right")) continue;
      }
      if (pictures && !(i in data.pictures)) continue;
      if (words && !data.keys[i].toLowerCase().includes(words) &&
          !data.captions[i].toLowerCase().includes(words)) continue;
      shown.push(i);
    }
    const order = fields.order.value;
    if (order !== "listed") {
      const sure = new Float64Array(count);
      for (const i of shown) sure[i] = sureness(scores[i], t);
      const sign = order === "sure" ? -1 : 1;
      shown.sort((a, b) => sign * (sure[a] - sure[b]) || a - b);
    }
  }

  // ---- Building blocks ---------------------------------------------------------------

  // An element with text, never markup: keys and captions are text of others.
  function make(tag, options = {}, ...children) {
    const element = document.createElement(tag);
    const { text, className, ...attributes } = options;
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function draw(tag, attributes, text) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // What an object does to a score: "fake", "real" or "none".
  function effect(method, picture, k) {
    const evidence = picture.evidence[method];
    return evidence ? evidence.effects[k] : "none";
  }

  function drawing(method, i, numbered) {
    const picture = data.pictures[i];
    if (!picture || !picture.image) {
      const why = picture ? picture.error : "no picture in this report";
      return make("span", { className: "picture nothing", text: why });
    }
    const { width, height } = picture;
    const svg = draw("svg", { class: "picture", viewBox: `0 0 ${width} ${height}`, role: "img" });
    svg.setAttribute("aria-label", data.captions[i]);
    svg.append(draw("image", { href: `data:image/jpeg;base64,${picture.image}`, width, height }));
    const thick = Math.max(width, height) / (numbered ? 160 : 90);
    picture.objects.forEach((object, k) => {
      const [x1, y1, x2, y2] = object.box;
      const towards = effect(method, picture, k);
      const place = { x: x1 * width, y: y1 * height, width: (x2 - x1) * width, height: (y2 - y1) * height, fill: "none" };
      const dash = DASHES[towards].split(" ").map((part) => Number(part) * thick).join(" ");
      svg.append(draw("rect", { ...place, stroke: "#fff", "stroke-width": 2 * thick }));
      svg.append(draw("rect", { ...place, stroke: data.colours[towards], "stroke-width": thick * 1.2, "stroke-dasharray": dash }));
      if (numbered) {
        const size = Math.max(width, height) / 22;
        svg.append(draw("rect", { x: place.x, y: place.y, width: size * 1.1, height: size * 1.2, fill: "#fff" }));
        svg.append(draw("text", { x: place.x + size * 0.25, y: place.y + size, "font-size": size, "font-weight": 700, fill: "#111" }, String(k + 1)));
      }
    });
    return svg;
  }

  function verdict(method, i) {
    const fake = says(method, i) === 1;
    const label = data.labels[i];
    const judged = label < 0 ? "" : (fake ? 1 : 0) === label ? ", right" : ", wrong";
    return make("span", {
      className: `verdict ${fake ? "fake-ink" : "real-ink"}`,
      text: `${fake ? "fake" : "real"} ${score(method, i).toFixed(3)}${judged}`,
    });
  }

  const labelOf = (i) => ["unknown label", "real", "fake"][data.labels[i] + 1];

  function table(head, rows) {
    const body = make("tbody");
    for (const row of rows) {
      const line = make("tr");
      row.forEach((cell, k) => line.append(make(k ? "td" : "th", { text: cell, ...(k ? {} : { scope: "row" }) })));
      body.append(line);
    }
    const top = make("tr", {}, ...head.map((text) => make("th", { text, scope: "col" })));
    const built = make("table", {}, make("thead", {}, top), body);
    return make("div", { className: "scroll", tabindex: "0", role: "region", "aria-label": head[0] }, built);
  }

  // ---- Cards -------------------------------------------------------------------------

  function card(method, place) {
    const i = shown[place];
    const button = make("button", { type: "button", className: "card" },
      drawing(method, i, false),
      verdict(method, i),
      make("span", { className: "small", text: `${labelOf(i)}, ${data.generators[data.generator[i]]}` }),
      make("span", { className: "small cut", text: data.captions[i] }));
    button.addEventListener("click", () => detail(place));
    return make("li", {}, button);
  }

  function render() {
    const method = Number(fields.method.value);
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    page = Math.min(Math.max(0, page), pages - 1);
    const first = page * PAGE;
    const last = Math.min(first + PAGE, shown.length);
    const cards = [];
    for (let place = first; place < last; place++) cards.push(card(method, place));
    byId("cards").replaceChildren(...cards);
    byId("count").textContent = shown.length
      ? `${number.format(first + 1)} to ${number.format(last)} of ${number.format(shown.length)} images (of ${number.format(count)})`
      : `No image of ${number.format(count)} is like that.`;
    byId("previous").disabled = page === 0;
    byId("next").disabled = page === pages - 1;
  }

  function update() {
    page = 0;
    select();
    render();
    const now = [fields.result.value, fields.order.value, String(fields.pictures.checked)].join();
    for (const button of form.querySelectorAll("[data-preset]")) {
      button.setAttribute("aria-pressed", String(now === PRESETS[button.dataset.preset].join()));
    }
  }

  const anyPicture = Object.keys(data.pictures).length > 0;
  const PRESETS = { // verdict, order, only with a picture
    errors: ["wrong", "sure", anyPicture],
    hits: ["right", "sure", anyPicture],
    near: ["", "near", anyPicture],
    all: ["", "listed", false],
  };

  function preset(name) {
    const [result, order, pictures] = PRESETS[name];
    fields.result.value = result;
    fields.order.value = order;
    fields.pictures.checked = pictures;
    update();
  }

  // ---- One image ---------------------------------------------------------------------

  function detail(place) {
    open = place;
    const method = Number(fields.method.value);
    const i = shown[place];
    const picture = data.pictures[i];
    byId("detail-title").textContent = data.keys[i];
    byId("detail-previous").disabled = place === 0;
    byId("detail-next").disabled = place === shown.length - 1;
    const facts = make("div", {},
      make("p", {}, verdict(method, i), ` by ${data.methods[method].name} (fake above ${threshold(method).toPrecision(4)}); it is ${labelOf(i)}, ${data.generators[data.generator[i]]}`),
      make("p", { text: data.captions[i] }),
      make("p", { className: "small", text: `cosine of image and caption ${data.cosines[i].toFixed(3)}` }));
    const evidence = picture && picture.evidence[method];
    if (evidence && evidence.without_global !== null) {
      facts.append(make("p", { className: "small", text: `P(fake) without the caption against the whole image ${evidence.without_global.toFixed(3)}, without all objects ${evidence.without_objects.toFixed(3)}` }));
    }
    if (picture && picture.objects.length) {
      facts.append(table(["Object", "effect", "cosine", "P(fake) without it"],
        picture.objects.map((object, k) => [
          `${k + 1}. ${object.phrase}`,
          evidence ? data.effects[effect(method, picture, k)] : "-",
          object.cosine.toFixed(3),
          evidence ? evidence.without[k].toFixed(3) : "-",
        ])));
    }
    facts.append(table(["Method", "P(fake)", "says"],
      data.methods.map((each, m) => [each.name, score(m, i).toFixed(3), says(m, i) ? "fake" : "real"])));
    byId("detail-body").replaceChildren(drawing(method, i, true), facts);
    if (!byId("detail").open) byId("detail").showModal();
  }

  function step(by) {
    const place = open + by;
    if (place >= 0 && place < shown.length) detail(place);
  }

  // ---- Wiring ------------------------------------------------------------------------

  data.methods.forEach((method, k) => fields.method.append(make("option", { value: k, text: method.name })));
  fields.generator.append(make("option", { value: "", text: "all" }));
  data.groups.forEach((group, k) => fields.generator.append(make("option", { value: k, text: `${group.name} (${number.format(group.rows.length)})` })));

  let waiting = 0;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", update);
  form.addEventListener("input", (event) => {
    if (event.target !== fields.search) return;
    clearTimeout(waiting);
    waiting = setTimeout(update, 150);
  });
  form.addEventListener("click", (event) => {
    const name = event.target.dataset && event.target.dataset.preset;
    if (name) preset(name);
  });
  byId("previous").addEventListener("click", () => { page--; render(); });
  byId("next").addEventListener("click", () => { page++; render(); });
  byId("cards").addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const cards = [...byId("cards").querySelectorAll(".card")];
    const target = cards[cards.indexOf(document.activeElement) + by];
    if (target) { target.focus(); event.preventDefault(); }
  });
  const dialog = byId("detail");
  byId("detail-previous").addEventListener("click", () => step(-1));
  byId("detail-next").addEventListener("click", () => step(1));
  byId("detail-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by) { step(by); event.preventDefault(); }
  });
  dialog.addEventListener("close", () => {
    page = Math.floor(open / PAGE);
    render();
    const cards = byId("cards").querySelectorAll(".card");
    if (cards[open % PAGE]) cards[open % PAGE].focus();
  });
  addEventListener("beforeprint", () => {
    for (const each of document.querySelectorAll("details")) each.open = true;
  });

  preset(data.labels.some((label) => label >= 0) ? "errors" : "near");
})();
