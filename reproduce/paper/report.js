"use strict";
// The page's only script: tables that sort, figures that say their values. Without it the page is complete but
// for these two. Everything it shows stands in the page already; text is set as text, never as HTML.
(() => {
  const make = (tag, className, parent) => {
    const node = document.createElement(tag);
    node.className = className;
    parent.append(node);
    return node;
  };

  // Tables: a button in each header; once up, once down, then the order of the page again.
  const numberOf = (text) => {
    const found = text.match(/^[+-]?\d+(\.\d+)?(e[+-]?\d+)?/i);
    return found === null ? null : Number(found[0]);
  };
  const compare = (one, other, sign) => {
    const [a, b] = [numberOf(one), numberOf(other)];
    if (a !== null && b !== null) return sign * (a - b);
    if (a !== null || b !== null) return a !== null ? -1 : 1; // what is no number stays below, either way
    return sign * one.localeCompare(other, "en", { numeric: true });
  };
  const NEXT = { none: "ascending", ascending: "descending", descending: "none" };
  const sortable = (table) => {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    const sort = (head, column) => {
      const order = NEXT[head.getAttribute("aria-sort")];
      for (const each of heads) each.setAttribute("aria-sort", each === head ? order : "none");
      const text = (row) => row.cells[column].textContent.trim();
      const sign = order === "descending" ? -1 : 1;
      const rows = order === "none" ? original : [...original].sort((a, b) => compare(text(a), text(b), sign));
      body.append(...rows);
    };
    heads.forEach((head, column) => {
      const label = [...head.childNodes];
      const button = make("button", "sort", head);
      button.type = "button";
      button.append(...label);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sort(head, column));
    });
  };
  for (const table of document.querySelectorAll("table")) if (table.tBodies[0].rows.length > 1) sortable(table);

  // Figures: a panel is a slider over the places that its lines have along x.
  const tip = make("div", "tip", document.body);
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true"); // the slider says the same
  let marks = []; // the cursor, then a dot a line
  const hide = () => {
    tip.hidden = true;
    for (const mark of marks) mark.remove();
    marks = [];
  };
  const settle = () => {
    if (!marks.length) return;
    const box = marks[0].getBoundingClientRect();
    const [width, height] = [document.documentElement.clientWidth, innerHeight];
    tip.hidden = box.bottom < 0 || box.top > height;
    const room = box.left + 12 + tip.offsetWidth < width;
    const left = room ? box.left + 12 : box.left - 12 - tip.offsetWidth;
    tip.style.left = `${Math.max(4, Math.min(left, width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${Math.max(4, Math.min(box.top, height - tip.offsetHeight - 4))}px`;
  };
  addEventListener("scroll", settle, { capture: true, passive: true });
  addEventListener("resize", settle);

  const numbers = (text) => (text ? text.split(" ").map((each) => (each === "-" ? NaN : Number(each))) : null);
  const axis = (ends, log) => {
    const along = log ? Math.log10 : (value) => value;
    const [low, high] = ends.split(" ").map((end) => along(Number(end)));
    return (value) => (along(value) - low) / (high - low);
  };
  const linesOf = (panel) =>
    [...panel.querySelectorAll("span")].map(({ dataset }) => ({
      label: dataset.label,
      colour: dataset.colour,
      x: numbers(dataset.x),
      y: numbers(dataset.y),
      low: numbers(dataset.low),
      high: numbers(dataset.high),
    }));
  const placesOf = (lines, share) => {
    const there = (line) => line.x.filter((x, i) => share(x) >= -0.001 && share(x) <= 1.001 && !isNaN(line.y[i]));
    return [...new Set(lines.flatMap(there))].sort((a, b) => a - b);
  };
  // Of each line the value at x, or at its nearest place if that is within a hundredth of the axis; the top first.
  const valuesAt = (lines, share, x) => {
    const found = [];
    for (const line of lines) {
      const away = (i) => Math.abs(share(line.x[i]) - share(x));
      let best = -1;
      line.x.forEach((_, i) => {
        if (!isNaN(line.y[i]) && away(i) <= 0.01 && (best < 0 || away(i) < away(best))) best = i;
      });
      if (best < 0) continue;
      const band = line.low && !isNaN(line.low[best]) ? ` (${line.low[best]} to ${line.high[best]})` : "";
      const elsewhere = line.x[best] === x ? "" : ` at ${line.x[best]}`;
      const [own, y] = [line.x[best], line.y[best]];
      found.push({ colour: line.colour, x: own, y, text: `${line.label} ${y}${band}${elsewhere}` });
    }
    return found.sort((a, b) => b.y - a.y);
  };
  const showValues = (panel, heading, left, values, xShare, yShare) => {
    hide();
    const cursor = make("i", "cursor", panel);
    cursor.style.left = `${100 * left}%`;
    marks.push(cursor);
    tip.replaceChildren();
    make("b", "", tip).textContent = heading;
    for (const { colour, x, y, text } of values) {
      const height = yShare(y);
      if (height >= 0 && height <= 1) {
        const dot = make("i", "dot", panel);
        Object.assign(dot.style, { left: `${100 * xShare(x)}%`, bottom: `${100 * height}%`, background: colour });
        marks.push(dot);
      }
      const row = make("div", "", tip);
      make("i", "swatch", row).style.background = colour;
      make("span", "", row).textContent = text;
    }
    tip.hidden = false;
    settle();
  };

  const interactive = (panel) => {
    const { x: xEnds, y: yEnds, xLog, yLog, xLabel, name } = panel.dataset;
    const [xShare, yShare] = [axis(xEnds, xLog), axis(yEnds, yLog)];
    const lines = linesOf(panel);
    const places = placesOf(lines, xShare);
    if (!places.length) return;
    let at = places.length - 1;
    const show = (index) => {
      at = Math.max(0, Math.min(places.length - 1, index));
      const heading = `${xLabel} ${places[at]}`;
      const values = valuesAt(lines, xShare, places[at]);
      showValues(panel, heading, xShare(places[at]), values, xShare, yShare);
      panel.setAttribute("aria-valuenow", at);
      panel.setAttribute("aria-valuetext", `${heading}: ${values.map(({ text }) => text).join("; ")}`);
    };
    const nearest = (event) => {
      const box = panel.getBoundingClientRect();
      const share = (event.clientX - box.left) / box.width;
      const away = (i) => Math.abs(xShare(places[i]) - share);
      show(places.reduce((best, _, i) => (away(i) < away(best) ? i : best), 0));
    };
    const far = Math.max(1, Math.round(places.length / 10));
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -far, PageUp: far };
    const ends = { Home: 0, End: places.length - 1 };
    const press = (event) => {
      if (event.key === "Escape") hide();
      else if (event.key in steps) show(at + steps[event.key]);
      else if (event.key in ends) show(ends[event.key]);
      else return;
      event.preventDefault();
    };
    const said = {
      role: "slider",
      tabindex: 0,
      "aria-label": `${name}, by ${xLabel}`,
      "aria-valuemin": 0,
      "aria-valuemax": places.length - 1,
      "aria-valuenow": at,
      "aria-valuetext": `${xLabel} ${places[at]}`,
    };
    for (const [key, value] of Object.entries(said)) panel.setAttribute(key, value);
    const heard = { pointermove: nearest, pointerdown: nearest, pointerleave: hide, blur: hide, keydown: press };
    for (const [type, listener] of Object.entries(heard)) panel.addEventListener(type, listener);
    panel.addEventListener("focus", () => show(at));
  };
  document.querySelectorAll(".panel").forEach(interactive);
})();
