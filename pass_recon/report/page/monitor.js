"use strict";
// What the server tells is only ever set as text, never as markup.
(() => {
  const byId = (id) => document.getElementById(id);
  const words = {running: "running", ok: "done", with_errors: "done, with errors", failed: "failed", cut: "cut off"};
  let chosen = "";  // id of the scan that was asked for; the newest one with an image otherwise
  let shown = "";

  const median = (values) => {
    const sorted = [...values].sort((a, b) => a - b), middle = sorted.length >> 1;
    return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  };
  const seconds = (value) => value < 1 ? `${Math.round(1000 * value)} ms` : `${value.toFixed(1)} s`;
  const typical = (values) => values.length ? seconds(median(values)) : "–";
  const bytes = (value) => value >= 1e9 ? `${(value / 1e9).toFixed(1)} GB` : `${Math.round(value / 1e6)} MB`;
  const clock = (since) => new Date(1000 * since).toLocaleTimeString();
  const element = (name, text, type = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    if (type) made.className = type;
    return made;
  };
  const counted = (counts) => Object.entries(counts).map(([word, count]) => `${count} ${word.replace(/_/g, " ")}`).join(", ");

  const tiles = (told) => {
    const running = told.scans.filter((scan) => scan.state === "running");
    const all = (name) => told.scans.flatMap((scan) => scan[name]);
    const fallbacks = {};
    for (const scan of told.scans)
      for (const [word, count] of Object.entries(scan.fallbacks)) fallbacks[word] = (fallbacks[word] || 0) + count;
    const memory = [`${(told.memory.used_bytes / 1e9).toFixed(1)} of ${bytes(told.memory.allowed_bytes)}`];
    if (told.memory.device_bytes) memory.push(`GPU ${bytes(told.memory.device_bytes)}`);
    byId("running").textContent = running.length;
    byId("plan").textContent = typical(all("plan_seconds"));
    byId("picture-time").textContent = typical(all("image_seconds"));
    byId("fallbacks").textContent = counted(fallbacks) || "none";
    byId("memory").textContent = memory.join(", ");
  };

  const live = (told) => {
    const scan = told.scans.find((one) => one.id === chosen && one.image) || told.scans.find((one) => one.image) || null;
    const image = byId("image"), token = scan ? `${scan.id}-${scan.image.number}` : "";
    if (token !== shown) {
      shown = token;
      image.hidden = byId("no-image").hidden = !scan;
      byId("no-image").hidden = !!scan;
      if (scan) image.src = `image.png?scan=${encodeURIComponent(scan.id)}&number=${scan.image.number}`;
    }
    const about = scan || told.scans[0];
    byId("said").replaceChildren(...(about && about.said.length
      ? about.said.map((one) => element("li", `${one.kind}: ${one.sentence}`))
      : [element("li", about ? "Nothing." : "No scan yet.", "faint")]));
    bars(about ? about.plan_seconds : []);
    if (!scan) { byId("caption").textContent = ""; return; }
    const score = scan.image.score === null ? "" : `, score ${scan.image.score.toFixed(2)}`;
    const text = `slice ${scan.image.slice}${score}`;
    image.alt = `Reconstruction with the anomaly map over it, ${text}`;
    byId("caption").textContent = `${scan.protocol} · ${text} · scan ${scan.id}${scan.state === "running" ? ", under way" : ""}`;
  };

  const bars = (values) => {
    if (!values.length) { byId("times").replaceChildren(element("p", "No plan yet.", "faint")); return; }
    const space = "http://www.w3.org/2000/svg", most = Math.max(...values, 1e-3);
    const picture = document.createElementNS(space, "svg");
    for (const [name, value] of Object.entries({viewBox: `0 0 ${Math.max(values.length, 20)} 1`, preserveAspectRatio: "none", role: "img", class: "bars",
      "aria-label": `Time of the last ${values.length} plans, at most ${seconds(most)}`})) picture.setAttribute(name, value);
    values.forEach((value, place) => {
      const bar = document.createElementNS(space, "rect"), high = Math.max(value / most, 0.02);
      for (const [name, at] of Object.entries({x: place + 0.1, y: 1 - high, width: 0.8, height: high})) bar.setAttribute(name, at);
      picture.append(bar);
    });
    byId("times").replaceChildren(picture, element("p", `last ${seconds(values[values.length - 1])}, median ${typical(values)}, longest ${seconds(most)}`, "faint"));
  };

  const table = (told) => {
    byId("no-scans").hidden = told.scans.length > 0;
    const focused = document.activeElement && document.activeElement.dataset.scan;
    byId("scans").replaceChildren(...told.scans.map((scan) => {
      const row = document.createElement("tr");
      const began = element("th", clock(scan.since));
      began.scope = "row";
      row.append(began, element("td", scan.protocol), element("td", words[scan.state] || scan.state, `state-${scan.state}`),
        ...[seconds(scan.seconds), scan.lines, scan.plans, scan.images, counted(scan.fallbacks) || "none"].map((value) => element("td", value)));
      const last = document.createElement("td");
      if (scan.image) {
        const button = element("button", "Show");
        button.type = "button";
        button.dataset.scan = scan.id;
        button.setAttribute("aria-label", `Show the image of the scan of ${clock(scan.since)}`);
        button.addEventListener("click", () => { chosen = scan.id; live(told); byId("live").scrollIntoView(); });
        last.append(button);
      }
      row.append(last);
      return row;
    }));
    if (focused) {
      const again = [...document.querySelectorAll("#scans button")].find((button) => button.dataset.scan === focused);
      if (again) again.focus();
    }
  };

  const trouble = (text) => {
    if (byId("trouble").textContent !== text) byId("trouble").textContent = text;
    byId("trouble").hidden = !text;
  };

  const ask = async () => {
    try {
      const answer = await fetch("scans.json", {cache: "no-store"});
      if (!answer.ok) throw new Error(`it answers ${answer.status}`);
      const told = await answer.json();
      byId("server").textContent = `${told.software} · since ${new Date(1000 * told.since).toLocaleString()}`;
      tiles(told); live(told); table(told);
      trouble(Object.entries(told.unmet).map(([name, reason]) => `Not ready (${name}): ${reason}.`).join(" "));
      document.body.dataset.asked = told.now;
    } catch (error) {
      trouble(`The server does not answer (${error.message}); what stands here is what it told last.`);
    }
    setTimeout(ask, 1000);
  };
  ask();
})();
