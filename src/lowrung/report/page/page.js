(async () => {
  const places = [...document.querySelectorAll(".plot")];
  const say = (place, text) => { place.style.minHeight = 0; place.appendChild(document.createElement("p")).textContent = text; };
  if (!("DecompressionStream" in window)) {
    places.forEach((place) => say(place, "This browser cannot inflate what draws the plots. Chrome 80, Firefox 113 and Safari 16.4, and newer ones, can. The tables are complete."));
    return;
  }
  const inflated = async (id) => {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = (isPrinted) => ({ "font.color": dark.matches && !isPrinted ? "#d5d9dd" : "#333333" });
  const figures = JSON.parse(await inflated("figures"));
  const heights = Object.fromEntries(Object.entries(figures).map(([name, figure]) => [name, figure.layout.height]));
  const tall = (place) => heights[place.dataset.name]; // as it was: plotly keeps the layout that it is given, and changes it
  const library = document.createElement("script");
  library.textContent = await inflated("plotly");
  document.head.appendChild(library);

  const drawn = new Set();
  const draw = (place) => {
    if (drawn.has(place)) return;
    drawn.add(place);
    const { data, layout } = figures[place.dataset.name];
    layout.font = { ...layout.font, color: colour(false)["font.color"] };
    Plotly.newPlot(place, data, layout, { responsive: true, displaylogo: false, displayModeBar: "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d"] }).catch((error) => say(place, `This plot cannot be drawn: ${error}`));
  };
  const watcher = new IntersectionObserver((seen) => seen.filter((one) => one.isIntersecting).forEach((one) => {
    watcher.unobserve(one.target);
    draw(one.target);
  }), { rootMargin: "600px" });
  places.forEach((place) => watcher.observe(place));
  const later = window.requestIdleCallback || ((call) => setTimeout(call, 200));
  const next = () => {
    const left = places.find((place) => !drawn.has(place));
    if (left) { draw(left); later(next); } else { document.body.dataset.drawn = places.length; }
  };
  later(next);

  dark.addEventListener("change", () => drawn.forEach((place) => Plotly.relayout(place, colour(false))));
  addEventListener("beforeprint", () => {
    places.forEach(draw);
    drawn.forEach((place) => { // a tall plot shrinks to a page, as far as its texts can be read
      const height = Math.max(0.7 * tall(place), Math.min(tall(place), 760));
      Plotly.relayout(place, { ...colour(true), width: 690, height });
    });
  });
  addEventListener("afterprint", () => drawn.forEach((place) =>
    Plotly.relayout(place, { ...colour(false), width: null, height: tall(place), autosize: true })));
})();
