// Moves one figure of optcore.widgets.explore. Every picture it shows was computed in Python: a frame
// holds one coded path a line (in tenths of a pixel), then the note.
(function (name, data) {
  // The same figure may stand twice in a page, and a notebook may run this script twice.
  for (const root of document.querySelectorAll(`[data-explore="${name}"]:not([data-live])`)) {
    const live = document.querySelectorAll("[data-live]").length;
    root.dataset.live = "";
    const controls = [...root.querySelectorAll(".explore-slider, .explore-choice")].map((box) => [
      ...box.querySelectorAll("input"),
    ]);
    const note = root.querySelector(".explore-note");
    const scenes = [...root.querySelectorAll(".explore-plot")].map((plot) => [
      ...plot.querySelectorAll("path[data-line]"),
    ]);
    let start = data.drag?.start;

    // The path of a coded line; a dot is a line of length zero with round ends.
    function path(code, dots, [sx, sy]) {
      let d = "", x = 0, y = 0;
      for (const piece of code.split(" ")) {
        const steps = numbers(piece);
        for (let i = 0; i < steps.length; i += 2) {
          x += steps[i];
          y += steps[i + 1];
          d += `${dots || i === 0 ? "M" : "L"}${(x * sx).toFixed(1)} ${(y * sy).toFixed(1)}`;
          if (dots) d += "h0";
        }
      }
      return d;
    }

    // Google's polyline encoding: five bits a character, the sixth says that more follow.
    function numbers(piece) {
      const found = [];
      let bits = 0, shift = 0;
      for (const letter of piece) {
        const part = letter.charCodeAt(0) - 63;
        bits |= (part & 31) << shift;
        shift += 5;
        if (part < 32) {
          found.push(bits & 1 ? ~(bits >> 1) : bits >> 1);
          bits = shift = 0;
        }
      }
      return found;
    }

    // The scene that follows the drag is coded for the start `reach`, and is linear in the start.
    const scale = (scene) =>
      data.drag && scene === 0 ? start.map((value, k) => value / data.drag.reach[k]) : [1, 1];

    // A control is one slider, or a group of buttons of which one is checked.
    const count = ([first, ...others]) => (first.max ? +first.max : others.length) + 1;
    const chosen = (inputs) => +(inputs.find((input) => input.checked) ?? inputs[0]).value;

    function show() {
      const index = controls.reduce((sum, inputs) => sum * count(inputs) + chosen(inputs), 0);
      const frame = data.frames[index];
      scenes.forEach((paths, scene) => {
        for (const p of paths) {
          p.setAttribute("d", path(frame[p.dataset.line], "dots" in p.dataset, scale(scene)));
        }
      });
      // Written only when it changes, so that a screen reader does not repeat itself.
      if (note.textContent !== frame.at(-1)) note.textContent = frame.at(-1);
    }

    // The figure keeps its height: the note has room for the tallest. One layout measures them all.
    function reserve() {
      const ruler = document.createElement("div");
      ruler.style.cssText = `position: absolute; visibility: hidden; width: ${note.offsetWidth}px`;
      note.style.minHeight = "";
      for (const text of new Set(data.frames.map((frame) => frame.at(-1)))) {
        const line = note.cloneNode();
        line.textContent = text;
        ruler.append(line);
      }
      note.after(ruler);
      const heights = [...ruler.children].map((line) => line.offsetHeight);
      ruler.remove();
      note.style.minHeight = `${Math.max(...heights)}px`;
    }

    controls.forEach((inputs, i) => {
      for (const input of inputs) {
        if (input.type === "radio") input.name = `${name}-${i}-${live}`;
        input.addEventListener("input", () => {
          if (input.dataset.labels) {
            const text = JSON.parse(input.dataset.labels)[input.value];
            input.closest(".explore-slider").querySelector("output").textContent = text;
            input.setAttribute("aria-valuetext", text);
          }
          show();
        });
        // A notebook would take the arrows to walk from cell to cell.
        input.addEventListener("keydown", (event) => {
          if (/^(Arrow|Page|Home|End)/.test(event.key)) event.stopPropagation();
        });
      }
    });

    if (data.drag) addHandle();
    root.querySelector(".explore-still")?.remove();
    root.querySelector(".explore-controls").hidden = false;
    reserve();
    addEventListener("resize", reserve);
    show();

    function addHandle() {
      const { lim, names, box } = data.drag; // box: left, top, width, height, in parts of the picture
      const plot = root.querySelector(".explore-plot");
      const handle = document.createElement("span");
      handle.className = "explore-handle";
      handle.tabIndex = 0;
      handle.setAttribute("role", "slider");
      handle.setAttribute("aria-label", "Start point: move it with the arrow keys");
      handle.setAttribute("aria-valuemin", lim[0][0]);
      handle.setAttribute("aria-valuemax", lim[0][1]);
      plot.append(handle);

      function place(point) {
        start = point.map((value, k) => Math.min(Math.max(value, lim[k][0]), lim[k][1]));
        const [x, y] = start.map((value, k) => (value - lim[k][0]) / (lim[k][1] - lim[k][0]));
        handle.style.left = `${100 * (box[0] + box[2] * x)}%`;
        handle.style.top = `${100 * (box[1] + box[3] * (1 - y))}%`;
        handle.setAttribute("aria-valuenow", start[0].toPrecision(3));
        handle.setAttribute(
          "aria-valuetext", start.map((value, k) => `${names[k]} ${value.toPrecision(3)}`).join(", "));
        show();
      }

      handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
      handle.addEventListener("pointermove", (event) => {
        if (!handle.hasPointerCapture(event.pointerId)) return;
        const area = plot.getBoundingClientRect();
        const x = ((event.clientX - area.left) / area.width - box[0]) / box[2];
        const y = 1 - ((event.clientY - area.top) / area.height - box[1]) / box[3];
        place([x, y].map((part, k) => lim[k][0] + part * (lim[k][1] - lim[k][0])));
      });
      handle.addEventListener("keydown", (event) => {
        const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
        if (!step) return;
        event.preventDefault(); // the page must not scroll
        place(start.map((value, k) => value + (step[k] * (lim[k][1] - lim[k][0])) / 50));
      });
      place(start);
    }
  }
})
