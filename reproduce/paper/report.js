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

  // Figures: a panel is a slider over its places along x.
  const tip = make("div", "tip", document.body);
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true"); // the slider says the same
  let beside = null; // the cursor that the values stand beside
  const settle = () => {
    if (beside === null || !beside.isConnected) return;
    const box = beside.getBoundingClientRect();
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

  const interactive = (panel) => {
    const xShare = axis(panel.dataset.x, panel.dataset.xLog);
    const yShare = axis(panel.dataset.y, panel.dataset.yLog);
    const lines = [...panel.querySelectorAll("span")].map((span) => ({
      label: span.dataset.label,
      colour: span.dataset.colour,
      x: numbers(span.dataset.x),
      y: numbers(span.dataset.y),
      low: numbers(span.dataset.low),
      high: numbers(span.dataset.high),
    }));
    const inside = (x) => xShare(x) >= -0.001 && xShare(x) <= 1.001;
    const places = [...new Set(lines.flatMap((line) => line.x.filter((x, i) => inside(x) && !isNaN(line.y[i]))))];
    places.sort((a, b) => a - b);
    if (!places.length) return;
    let at = places.length - 1;
    const marks = [];

    // Of each line the value at x, or at its nearest place if that is within a hundredth of the axis.
    const valuesAt = (x) => {
      const found = [];
      for (const line of lines) {
        let best = -1;
        line.x.forEach((each, i) => {
          const distance = Math.abs(xShare(each) - xShare(x));
          if (isNaN(line.y[i]) || distance > 0.01) return;
          if (best < 0 || distance < Math.abs(xShare(line.x[best]) - xShare(x))) best = i;
        });
        if (best < 0) continue;
        const band = line.low && !isNaN(line.low[best]) ? ` (${line.low[best]} to ${line.high[best]})` : "";
        const elsewhere = line.x[best] === x ? "" : ` at ${line.x[best]}`;
        const y = line.y[best];
        found.push({ line, x: line.x[best], y, text: `${y}${band}${elsewhere}` });
      }
      return found.sort((a, b) => b.y - a.y);
    };
    const hide = () => {
      tip.hidden = true;
      while (marks.length) marks.pop().remove();
    };
    const show = (index) => {
      at = Math.max(0, Math.min(places.length - 1, index));
      hide();
      const x = places[at];
      const found = valuesAt(x);
      const cursor = make("i", "cursor", panel);
      cursor.style.left = `${100 * xShare(x)}%`;
      marks.push(cursor);
      tip.replaceChildren();
      make("b", "", tip).textContent = `${panel.dataset.xLabel} ${x}`;
      for (const { line, x: own, y, text } of found) {
        const height = yShare(y);
        if (height >= 0 && height <= 1) {
          const dot = make("i", "dot", panel);
          Object.assign(dot.style, { left: `${100 * xShare(own)}%`, bottom: `${100 * height}%`, background: line.colour });
          marks.push(dot);
        }
        const row = make("div", "", tip);
        make("i", "swatch", row).style.background = line.colour;
        make("span", "", row).textContent = `${line.label} ${text}`;
      }
      tip.hidden = false;
      beside = cursor;
      settle();
      panel.setAttribute("aria-valuenow", at);
      const said = found.map(({ line, text }) => `${line.label} ${text}`).join("; ");
      panel.setAttribute("aria-valuetext", `${panel.dataset.xLabel} ${x}: ${said}`);
    };
    const nearest = (event) => {
      const box = panel.getBoundingClientRect();
      const share = (event.clientX - box.left) / box.width;
      const away = (i) => Math.abs(xShare(places[i]) - share);
      show(places.reduce((best, _, i) => (away(i) < away(best) ? i : best), 0));
    };

    panel.tabIndex = 0;
    panel.setAttribute("role", "slider");
    panel.setAttribute("aria-label", `${panel.dataset.name}, by ${panel.dataset.xLabel}`);
    panel.setAttribute("aria-valuemin", 0);
    panel.setAttribute("aria-valuemax", places.length - 1);
    panel.setAttribute("aria-valuenow", at);
    panel.setAttribute("aria-valuetext", `${panel.dataset.xLabel} ${places[at]}`);
    panel.addEventListener("pointermove", nearest);
    panel.addEventListener("pointerdown", nearest);
    panel.addEventListener("pointerleave", hide);
    panel.addEventListener("focus", () => show(at));
    panel.addEventListener("blur", hide);
    panel.addEventListener("keydown", (event) => {
      const far = Math.max(1, Math.round(places.length / 10));
      const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -far, PageUp: far };
      const ends = { Home: 0, End: places.length - 1 };
      if (event.key === "Escape") hide();
      else if (event.key in steps) show(at + steps[event.key]);
      else if (event.key in ends) show(ends[event.key]);
      else return;
      event.preventDefault();
    });
  };
  document.querySelectorAll(".panel").forEach(interactive);
})();
