// Sorting, filtering and the charts. All that the page says is there without this; text is only ever set as text.
"use strict";
(() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const root = document.documentElement;
  const table = document.querySelector("#table table");
  const form = document.getElementById("filters");
  const views = [];

  const theme = document.getElementById("theme");
  const color = (name) => {
    if (name) root.dataset.theme = name;
    else delete root.dataset.theme;
  };
  // Some browsers keep nothing for a page that is opened from a file.
  try {
    theme.value = localStorage.getItem("edge-af-theme") || "";
  } catch { /* the system's colors */ }
  color(theme.value);
  theme.addEventListener("change", () => {
    color(theme.value);
    try {
      localStorage.setItem("edge-af-theme", theme.value);
    } catch { /* for this visit only */ }
  });

  if (table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    body.classList.add("grouped");
    const compare = (column, sign) => (a, b) => {
      const [x, y] = [a, b].map((row) => row.cells[column].dataset.value);
      // What was not measured stands last, whichever way.
      if (x === "" || y === "") return (x === "") - (y === "");
      const isText = heads[column].classList.contains("text");
      return sign * (isText ? x.localeCompare(y, "en", { numeric: true }) : Number(x) - Number(y));
    };
    heads.forEach((head, column) => {
      head.firstElementChild.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const turned = now === "ascending" ? "descending" : "ascending";
        const next = now === "none" ? head.dataset.first : turned;
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", next);
        // From the first order each time, so that equal rows keep it.
        body.append(...[...rows].sort(compare(column, next === "ascending" ? 1 : -1)));
        body.classList.remove("grouped");
      });
    });
    const all = document.getElementById("all");
    all?.addEventListener("change", () => table.classList.toggle("all", all.checked));
    table.classList.toggle("all", Boolean(all?.checked));
  }

  const isShown = () => {
    const chosen = {};
    for (const box of form ? form.querySelectorAll("input") : []) {
      chosen[box.name] ??= new Set();
      if (box.checked) chosen[box.name].add(box.value);
    }
    return content.facets.map((facets) =>
      Object.entries(chosen).every(([key, values]) => !(key in facets) || values.has(facets[key])));
  };

  const show = ({ chart, element, view }, shown) => {
    const data = {};
    for (const [name, values] of Object.entries(chart.data)) data[name] = values.filter((datum) => shown[datum.id]);
    element.closest("figure").hidden = data.rows.length === 0;
    if (data.rows.length === 0) return;
    for (const [name, values] of Object.entries(data)) view.data(name, values);
    // The element may just have come back, and with it its width.
    view.signal("width", element.clientWidth).resize().runAsync();
  };

  const filter = () => {
    const shown = isShown();
    let count = 0;
    const rows = table ? [...table.tBodies[0].rows] : [];
    for (const row of rows) {
      row.hidden = !shown[Number(row.dataset.id)];
      count += !row.hidden;
    }
    if (table) document.getElementById("count").textContent = `${count} of ${rows.length} rows shown`;
    views.forEach((one) => show(one, shown));
    document.querySelectorAll("section.drawn").forEach((section) => {
      section.hidden = !section.querySelector("figure:not([hidden])");
    });
  };
  if (form) {
    form.addEventListener("change", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    // The boxes are set back after the event.
    form.addEventListener("reset", () => setTimeout(filter));
  }
  filter();

  if (window.vegaEmbed) {
    const tooltip = document.createElement("div");
    tooltip.id = "vg-tooltip-element";
    tooltip.setAttribute("role", "tooltip");
    document.body.append(tooltip);
    const tell = (_, event, __, value) => {
      tooltip.classList.toggle("visible", Boolean(value));
      if (!value) return;
      tooltip.textContent = String(value);
      const { clientX: x, clientY: y } = event;
      tooltip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - tooltip.offsetWidth - 8))}px`;
      tooltip.style.top = `${y + 14 + tooltip.offsetHeight > innerHeight ? y - tooltip.offsetHeight - 10 : y + 14}px`;
    };
    const options = { mode: "vega", ast: true, renderer: "svg", actions: false, defaultStyle: false, config: content.config, tooltip: tell };
    Promise.all(content.charts.map(async (chart) => {
      const element = document.getElementById(chart.name);
      const data = chart.spec.data.map((one) => chart.data[one.name] ? { ...one, values: chart.data[one.name] } : one);
      const { view } = await window.vegaEmbed(element, { ...chart.spec, data }, options);
      views.push({ chart, element, view });
    })).then(() => {
      filter();
      root.dataset.drawn = String(views.length);
    }, (error) => console.error(error));
  }
})();
