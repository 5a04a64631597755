"use strict";
(() => {
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const slices = data.slices;
  const byId = (id) => document.getElementById(id);
  const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const colours = bytesOf(data.colours); // red, green, blue, opacity of 256 probabilities
  const ERROR_GAIN = 10;
  const NAMES = {
    magnitude: "Reconstruction", overlay: "Overlay", map: "Anomaly map", plan: "Lines (plan)",
    truth: "Ground truth", error: `Error × ${ERROR_GAIN}`,
  };
  const NEEDS = { overlay: ["map"], map: ["map"], truth: ["truth"], error: ["truth"] };
  const some = (kind) => slices.some((one) => one.has.includes(kind));
  const views = Object.keys(NAMES).filter((view) => (NEEDS[view] || []).every(some))
    .filter((view) => view !== "plan" || slices.some((one) => one.plans.length));

  const state = { slice: 0, layout: "beside", a: "magnitude", swipe: 50, boxes: true, legend: false, shown: null };
  state.b = views.includes("overlay") ? "overlay" : views.includes("error") ? "error" : views[views.length - 1];
  state.width = Math.max(...slices.map((one) => one.window), 1);
  state.level = state.width / 2;
  const initial = { width: state.width, level: state.level };
  const most = Math.min(65535, Math.max(4 * state.width, 16));

  // Pixels are unpacked when a slice is first shown; some are kept, so that scrolling back and forth is quick.
  const unpacked = new Map();
  async function inflate(text) {
    const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }
  async function unpack(kind, number) {
    const bytes = await inflate(byId(`${kind}-${number}`).textContent);
    if (kind === "map") return bytes;
    const pixels = bytes.length / 2;
    const values = new Uint16Array(pixels);
    for (let i = 0; i < pixels; i++) values[i] = bytes[i] + 256 * bytes[pixels + i];
    return values;
  }
  function pixelsOf(number) {
    if (!unpacked.has(number)) {
      if (unpacked.size > 24) unpacked.delete(unpacked.keys().next().value);
      const kinds = slices[number].has;
      unpacked.set(number, Promise.all(kinds.map((kind) => unpack(kind, number)))
        .then((values) => Object.fromEntries(kinds.map((kind, i) => [kind, values[i]]))));
    }
    return unpacked.get(number);
  }

  function drawPlan(pixels, one) {
    const { rows, columns } = one;
    for (let i = 0; i < rows * columns; i++) pixels.set([13, 15, 18, 255], 4 * i);
    const length = one.phaseDown ? rows : columns;
    for (const plan of one.plans) {
      for (const line of plan.lines) {
        const inAcs = line >= plan.acs[0] && line < plan.acs[1];
        const colour = inAcs ? [255, 180, 84, 255] : plan.round > 1 ? [242, 140, 207, 255] : [89, 194, 255, 255];
        const first = Math.floor(line * length / plan.pe);
        const last = Math.max(Math.floor((line + 1) * length / plan.pe), first + 1);
        for (let at = first; at < Math.min(last, length); at++) {
          const place = one.phaseReversed ? length - 1 - at : at;
          for (let other = 0; other < (one.phaseDown ? columns : rows); other++) {
            pixels.set(colour, 4 * (one.phaseDown ? place * columns + other : other * columns + place));
          }
        }
      }
    }
  }

  function drawInto(canvas, view, one, values) {
    canvas.width = one.columns;
    canvas.height = one.rows;
    const context = canvas.getContext("2d");
    const image = context.createImageData(one.columns, one.rows);
    const pixels = image.data;
    const missing = (NEEDS[view] || []).some((kind) => !one.has.includes(kind));
    const dark = state.level - state.width / 2;
    const grey = (value) => Math.min(Math.max((value - dark) / state.width, 0), 1) * 255;
    const magnitude = values.magnitude;
    if (view === "plan") drawPlan(pixels, one);
    else {
      for (let i = 0; i < magnitude.length; i++) {
        let red, green, blue;
        if (view === "magnitude" || missing) red = green = blue = missing && view !== "overlay" ? 0 : grey(magnitude[i]);
        else if (view === "truth") red = green = blue = grey(values.truth[i]);
        else if (view === "error") {
          const at = 4 * Math.round(Math.min(ERROR_GAIN * Math.abs(magnitude[i] - values.truth[i]) / state.width, 1) * 255);
          [red, green, blue] = [colours[at], colours[at + 1], colours[at + 2]];
        } else {
          const at = 4 * values.map[i];
          const opacity = view === "map" ? 1 : colours[at + 3] / 255;
          const base = view === "map" ? 0 : grey(magnitude[i]) * (1 - opacity);
          red = base + colours[at] * opacity;
          green = base + colours[at + 1] * opacity;
          blue = base + colours[at + 2] * opacity;
        }
        pixels[4 * i] = red; pixels[4 * i + 1] = green; pixels[4 * i + 2] = blue; pixels[4 * i + 3] = 255;
      }
    }
    context.putImageData(image, 0, 0);
    return missing;
  }

  function element(parent, className, text) {
    const made = document.createElement("div");
    made.className = className;
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  function drawFrames(marks, one, boxes, isLesion) {
    boxes.forEach((box, number) => {
      const frame = element(marks, isLesion ? "frame lesion" : "frame");
      frame.style.left = `${100 * box.left / one.columns}%`;
      frame.style.top = `${100 * box.top / one.rows}%`;
      frame.style.width = `${100 * box.width / one.columns}%`;
      frame.style.height = `${100 * box.height / one.rows}%`;
      frame.classList.toggle("low", box.top < 0.1 * one.rows);
      frame.classList.toggle("right", box.left > 0.6 * one.columns);
      frame.classList.toggle("shown", !isLesion && state.shown === number);
      const name = document.createElement("span");
      name.textContent = isLesion ? `truth: ${box.label || "lesion"}` : `${box.label || "finding"} ${box.score.toFixed(2)}`;
      frame.append(name);
    });
  }

  function drawMarks(pane, view, one) {
    const marks = pane.querySelector(".marks");
    marks.replaceChildren();
    if (view === "plan") return;
    ["top", "right", "bottom", "left"].forEach((side, number) => element(marks, `edge ${side}`, one.edges[number]));
    if (!state.boxes) return;
    if (view === "truth" || view === "error") drawFrames(marks, one, one.lesions, true);
    else drawFrames(marks, one, one.findings, false);
  }

  function drawLegend(pane, view) {
    const legend = pane.querySelector(".legend");
    legend.hidden = !(state.legend && (view === "overlay" || view === "map"));
    const context = legend.querySelector("canvas").getContext("2d");
    for (let row = 0; row < 128; row++) {
      const at = 4 * (255 - 2 * row);
      context.fillStyle = `rgb(${colours[at]} ${colours[at + 1]} ${colours[at + 2]})`;
      context.fillRect(0, row, 1, 1);
    }
  }

  let drawing = 0;
  async function draw() {
    const ticket = ++drawing;
    const one = slices[state.slice];
    const values = await pixelsOf(state.slice);
    if (ticket !== drawing) return; // another slice was asked for meanwhile
    const swiping = state.layout === "swipe";
    byId("stage").className = `stage ${state.layout} js`;
    byId("swipe-bar").hidden = byId("divider").hidden = !swiping;
    byId("pick-b").hidden = state.layout === "one";
    for (const [id, view] of [["pane-a", state.a], ["pane-b", state.b]]) {
      const pane = byId(id);
      pane.querySelector(".picture").style.setProperty("--ratio", one.ratio);
      const missing = drawInto(pane.querySelector("canvas"), view, one, values);
      pane.querySelector("canvas").style.imageRendering = view === "plan" ? "pixelated" : "auto";
      drawMarks(pane, view, one);
      drawLegend(pane, view);
      pane.querySelector("figcaption").textContent = NAMES[view] + (missing ? ": none for this slice" : "");
    }
    swipe();
    const score = one.score === null ? "" : ` · score ${one.score.toFixed(2)}`;
    byId("where").textContent = `${one.name} (${state.slice + 1} of ${slices.length})${score}`;
    byId("window").textContent = `width ${Math.round(state.width)}, level ${Math.round(state.level)}`;
    byId("slice").setAttribute("aria-valuetext", one.name);
    document.body.dataset.drawn = String(state.slice);
  }

  function swipe() {
    const picture = byId("pane-b").querySelector(".picture");
    const swiping = state.layout === "swipe";
    picture.style.clipPath = swiping ? `inset(0 0 0 ${state.swipe}%)` : "";
    if (swiping) {
      const stage = byId("stage").getBoundingClientRect();
      const box = picture.getBoundingClientRect();
      byId("divider").style.left = `${box.left - stage.left + box.width * state.swipe / 100}px`;
    }
    byId("swipe").value = state.swipe;
  }

  function go(number, finding = null) {
    state.slice = Math.min(Math.max(number, 0), slices.length - 1);
    state.shown = finding;
    byId("slice").value = state.slice;
    for (const part of document.querySelectorAll(".of-slice")) part.hidden = Number(part.dataset.slice) !== state.slice;
    for (const button of document.querySelectorAll(".sheet button")) {
      if (Number(button.dataset.slice) === state.slice) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    draw();
  }

  function setWindow(width, level) {
    state.width = Math.min(Math.max(width, 1), most);
    state.level = Math.min(Math.max(level, 0), most);
    byId("width").value = state.width;
    byId("level").value = state.level;
    draw();
  }

  function setLayout(layout) {
    state.layout = layout;
    document.querySelector(`input[name="layout"][value="${layout}"]`).checked = true;
    draw();
  }

  for (const [id, key] of [["view-a", "a"], ["view-b", "b"]]) {
    for (const view of views) byId(id).append(new Option(NAMES[view], view, false, state[key] === view));
    byId(id).addEventListener("change", (event) => { state[key] = event.target.value; draw(); });
  }
  for (const input of document.querySelectorAll('input[name="layout"]')) {
    input.addEventListener("change", () => setLayout(input.value));
  }
  byId("slice").addEventListener("input", (event) => go(Number(event.target.value)));
  byId("previous").addEventListener("click", () => go(state.slice - 1));
  byId("next").addEventListener("click", () => go(state.slice + 1));
  byId("boxes").addEventListener("change", (event) => { state.boxes = event.target.checked; draw(); });
  byId("legend").addEventListener("change", (event) => { state.legend = event.target.checked; draw(); });
  byId("swipe").addEventListener("input", (event) => { state.swipe = Number(event.target.value); swipe(); });
  byId("width").max = byId("level").max = most;
  byId("width").addEventListener("input", (event) => setWindow(Number(event.target.value), state.level));
  byId("level").addEventListener("input", (event) => setWindow(state.width, Number(event.target.value)));
  byId("reset").addEventListener("click", () => setWindow(initial.width, initial.level));
  byId("print").addEventListener("click", () => window.print());
  window.addEventListener("resize", swipe);

  for (const button of document.querySelectorAll("button.show")) {
    button.addEventListener("click", () => {
      const finding = button.dataset.finding;
      go(Number(button.dataset.slice), finding === undefined ? null : Number(finding));
      byId("viewer").scrollIntoView();
      byId("stage").focus({ preventScroll: true });
    });
  }

  const stage = byId("stage");
  let drag = null;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    const onDivider = event.target.closest("#divider") !== null;
    drag = { x: event.clientX, y: event.clientY, width: state.width, level: state.level, onDivider };
    stage.setPointerCapture(event.pointerId);
    event.preventDefault();
    stage.focus({ preventScroll: true });
  });
  stage.addEventListener("pointermove", (event) => {
    if (drag === null) return;
    if (drag.onDivider) {
      const box = byId("pane-b").querySelector(".picture").getBoundingClientRect();
      state.swipe = Math.min(Math.max(100 * (event.clientX - box.left) / box.width, 0), 100);
      swipe();
      return;
    }
    const step = initial.width / 300;
    setWindow(drag.width + step * (event.clientX - drag.x), drag.level + step * (event.clientY - drag.y));
  });
  for (const over of ["pointerup", "pointercancel"]) stage.addEventListener(over, () => { drag = null; });
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement === stage) {
      event.preventDefault();
      go(state.slice + Math.sign(event.deltaY));
    }
  }, { passive: false });

  const keys = {
    ArrowLeft: () => go(state.slice - 1), ArrowRight: () => go(state.slice + 1),
    ArrowUp: () => go(state.slice - 1), ArrowDown: () => go(state.slice + 1),
    PageUp: () => go(state.slice - 10), PageDown: () => go(state.slice + 10),
    Home: () => go(0), End: () => go(slices.length - 1),
    1: () => setLayout("one"), 2: () => setLayout("beside"), 3: () => setLayout("swipe"),
    b: () => byId("boxes").click(), r: () => setWindow(initial.width, initial.level),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select")) return;
    const inViewer = event.target === stage || event.target === document.body;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    // Arrows and their like belong to whatever has the focus.
    if (!Object.hasOwn(keys, key) || (key.length > 1 && !inViewer)) return;
    event.preventDefault();
    keys[key]();
  });

  const theme = byId("theme");
  const isDark = () => document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : !window.matchMedia("(prefers-color-scheme: light)").matches;
  const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    nameTheme();
  });
  nameTheme();

  setWindow(initial.width, initial.level);
  go(0);
})();
