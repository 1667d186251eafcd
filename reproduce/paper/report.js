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
      const ends = [line.low?.[best] ?? NaN, line.high?.[best] ?? NaN];
      // Where seeds diverged a band may have one end only.
      const [low, high] = ends.map((end) => (isNaN(end) ? "–" : end));
      const band = ends.every(isNaN) ? "" : ` (${low} to ${high})`;
      const elsewhere = line.x[best] === x ? "" : ` at ${line.x[best]}`;
      const [own, y] = [line.x[best], line.y[best]];
      found.push({ colour: line.colour, x: own, y, text: `${line.label} ${y}${band}${elsewhere}` });
    }
    return found.sort((a, b) => b.y - a.y);
  };
  const say = (heading, rows) => {
    tip.replaceChildren();
    make("b", "", tip).textContent = heading;
    for (const { colour, text } of rows) {
      const row = make("div", "", tip);
      make("i", "swatch", row).style.background = colour;
      make("span", "", row).textContent = text;
    }
    tip.hidden = false;
    settle();
  };
  const showValues = (panel, heading, left, values, xShare, yShare) => {
    hide();
    const cursor = make("i", "cursor", panel);
    cursor.style.left = `${100 * left}%`;
    marks.push(cursor);
    for (const { colour, x, y } of values) {
      const height = yShare(y);
      if (height < 0 || height > 1) continue;
      const dot = make("i", "dot", panel);
      Object.assign(dot.style, { left: `${100 * xShare(x)}%`, bottom: `${100 * height}%`, background: colour });
      marks.push(dot);
    }
    say(heading, values);
  };
  // What both kinds of panels are: a slider of `count` places. `show(place)` marks one, fills the tip and returns
  // what it says; `heading(place)` says where that is; `under(x, y)` is the place at these shares of the panel.
  const slider = (panel, { label, count, start, heading, show, under, moves }) => {
    let at = start;
    const go = (place) => {
      at = place;
      panel.setAttribute("aria-valuenow", at);
      panel.setAttribute("aria-valuetext", show(at));
    };
    const ends = { Home: () => 0, End: () => count - 1 };
    const press = (event) => {
      const move = moves[event.key] ?? ends[event.key];
      if (move) go(move(at));
      else if (event.key === "Escape") hide();
      else return;
      event.preventDefault();
    };
    const point = (event) => {
      const box = panel.getBoundingClientRect();
      go(under((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height));
    };
    const said = {
      role: "slider",
      tabindex: 0,
      "aria-label": label,
      "aria-valuemin": 0,
      "aria-valuemax": count - 1,
      "aria-valuenow": at,
      "aria-valuetext": heading(at),
    };
    for (const [key, value] of Object.entries(said)) panel.setAttribute(key, value);
    const heard = { pointermove: point, pointerdown: point, pointerleave: hide, blur: hide, keydown: press };
    for (const [type, listener] of Object.entries(heard)) panel.addEventListener(type, listener);
    panel.addEventListener("focus", () => go(at));
  };

  const plot = (panel) => {
    const { x: xEnds, y: yEnds, xLog, yLog, xLabel, name } = panel.dataset;
    const [xShare, yShare] = [axis(xEnds, xLog), axis(yEnds, yLog)];
    const lines = linesOf(panel);
    const places = placesOf(lines, xShare);
    const count = places.length;
    if (!count) return;
    const heading = (at) => `${xLabel} ${places[at]}`;
    const show = (at) => {
      const values = valuesAt(lines, xShare, places[at]);
      showValues(panel, heading(at), xShare(places[at]), values, xShare, yShare);
      return `${heading(at)}: ${values.map(({ text }) => text).join("; ")}`;
    };
    const under = (share) => {
      const away = (i) => Math.abs(xShare(places[i]) - share);
      return places.reduce((best, _, i) => (away(i) < away(best) ? i : best), 0);
    };
    const by = (step) => (at) => Math.max(0, Math.min(count - 1, at + step));
    const far = Math.max(1, Math.round(count / 10));
    const [back, on] = [by(-1), by(1)];
    const moves = { ArrowLeft: back, ArrowDown: back, ArrowRight: on, ArrowUp: on, PageDown: by(-far), PageUp: by(far) };
    slider(panel, { label: `${name}, by ${xLabel}`, count, start: count - 1, heading, show, under, moves });
  };

  // A map: its cells in the order of reading; the arrow keys stop at its edges.
  const grid = (panel) => {
    const [columns, rows, cells] = ["columns", "rows", "cells"].map((key) => JSON.parse(panel.dataset[key]));
    const [across, down] = [columns.length, rows.length];
    const within = (index, size) => Math.max(0, Math.min(size - 1, Math.floor(index)));
    const placed = (i, j) => within(i, down) * across + within(j, across);
    const [row, column] = [(at) => Math.floor(at / across), (at) => at % across];
    const heading = (at) => `${rows[row(at)]}, ${columns[column(at)]}`;
    const show = (at) => {
      hide();
      const mark = make("i", "cell", panel);
      const place = { left: column(at) / across, top: row(at) / down, width: 1 / across, height: 1 / down };
      for (const [key, share] of Object.entries(place)) mark.style[key] = `${100 * share}%`;
      marks.push(mark);
      const [text, colour] = cells[row(at)][column(at)];
      say(heading(at), [{ colour, text }]);
      return `${heading(at)}: ${text}`;
    };
    const by = (i, j) => (at) => placed(row(at) + i, column(at) + j);
    const moves = { ArrowLeft: by(0, -1), ArrowRight: by(0, 1), ArrowUp: by(-1, 0), ArrowDown: by(1, 0) };
    const under = (x, y) => placed(y * down, x * across);
    slider(panel, { label: panel.dataset.name, count: across * down, start: 0, heading, show, under, moves });
  };
  for (const panel of document.querySelectorAll(".panel")) (panel.dataset.cells ? grid : plot)(panel);
})();
