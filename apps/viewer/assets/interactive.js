// The interactive view: NiiVue on a canvas, told by Python what to show, telling Python where the user points.
//
// Volumes come by URL, never through `data`. Names are set with textContent only: a header may hold anything.
// Without WebGL, with a software renderer or without NiiVue it says so to Python, which shows slices instead.

const SOFTWARE = /SwiftShader|llvmpipe|softpipe|Basic Render|Software/i;
const VIEWS = { planes: 3, axial: 0, coronal: 1, sagittal: 2, render: 4 };
const PAUSE_MS = 250; // after the last movement, before Python hears of it
const BASE = new URL(".", document.baseURI).origin;

function renderer() {
  const gl = document.createElement("canvas").getContext("webgl2");
  if (!gl) return null;
  const info = gl.getExtension("WEBGL_debug_renderer_info");
  const name = String(gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return name;
}

function later(call) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...given), PAUSE_MS);
  };
}

function lookup(colors) {
  // Value 0 is drawn nowhere; every value up to the largest has a colour, so that none is taken for another.
  const size = Math.max(1, ...colors.map((one) => one.value)) + 1;
  const table = { R: [], G: [], B: [], A: [], I: [], labels: [] };
  for (let value = 0; value < size; value++) {
    const one = colors.find((known) => known.value === value);
    const [r, g, b] = one ? one.rgb : [0, 0, 0];
    table.R.push(r), table.G.push(g), table.B.push(b), table.I.push(value);
    table.A.push(one && one.shown ? 255 : 0);
    table.labels.push(one ? one.name : "");
  }
  return table;
}

class View {
  constructor(root, say) {
    this.root = root;
    this.say = say;
    this.canvas = root.querySelector("canvas");
    this.status = root.querySelector(".status");
    this.volumes = new Map(); // layer's URL -> NVImage
    this.shown = ""; // what layers look like, to redraw only what changed
    this.work = Promise.resolve();
    this.serial = null;
    this.tellPlace = later((place) => this.say.state("place", place));
    this.tellWindow = later((window) => this.say.state("window", window));
    this.buttons();
  }

  update(data) {
    this.data = data;
    this.work = this.work.then(() => this.apply(data)).catch((error) => this.fail(String(error?.message ?? error)));
  }

  fail(reason) {
    this.root.dataset.state = "failed";
    this.status.textContent = reason;
    this.say.state("unavailable", reason);
  }

  async apply(data) {
    if (this.root.dataset.state === "failed" && this.tried === data.image.url) return;
    this.tried = data.image.url;
    this.root.style.height = `${data.height}px`;
    if (!this.nv) await this.begin(data);
    this.put(data, await this.fetched(data));
    this.look(data);
    this.pen(data);
    this.root.dataset.state = "ready";
  }

  async begin(data) {
    const { Niivue, NVImage } = await import(BASE + data.library);
    this.NVImage = NVImage;
    this.nv = new Niivue({
      isRadiologicalConvention: true, // NiiVue's default shows the patient's left on the left
      sagittalNoseLeft: true,
      isOrientationTextVisible: data.orientation_known,
      isCornerOrientationText: false,
      showAllOrientationMarkers: true,
      multiplanarLayout: 2, // two by two, the fourth in 3D
      multiplanarShowRender: data.software ? 0 : 1,
      multiplanarForceRender: !data.software,
      backColor: [0, 0, 0, 1],
      crosshairColor: [0.47, 0.86, 0.47, 0.8],
      crosshairWidthUnit: "percent",
      crosshairGap: 4,
      fontColor: [1, 0.8, 0.25, 1],
      dragAndDropEnabled: false, // only what Python names is shown
      loadingText: data.texts.loading,
      show3Dcrosshair: true,
      isForceMouseClickToVoxelCenters: true,
      viewModeHotKey: "",
      clipPlaneHotKey: "",
      cycleClipPlaneHotKey: "",
      logLevel: "error",
      mouseEventConfig: {
        leftButton: { primary: 8, withShift: 2, withCtrl: 3 }, // crosshair, ruler, pan
        rightButton: 9, // window
        centerButton: 3,
      },
    });
    await this.nv.attachToCanvas(this.canvas, false);
    this.nv.addColormap("medseg_heat", data.heat);
    this.nv.onLocationChange = (location) => this.moved(location);
    this.nv.onIntensityChange = (volume) => this.tellWindow([volume.cal_min, volume.cal_max]);
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("webglcontextlost", () => this.fail(this.data.texts.lost));
  }

  async fetched(data) {
    // What the browser lacks so far, all at the same time: URL -> NVImage.
    const other = this.base !== data.image.url;
    const [low, high] = data.window;
    const wanted = data.layers
      .filter((layer) => other || !this.volumes.has(layer.url))
      .map(({ url, kind, opacity }) => {
        return { url, name: "layer.nii.gz", opacity, colormap: kind === "heat" ? "medseg_heat" : "gray" };
      });
    if (other) {
      this.root.dataset.state = "loading";
      this.status.textContent = data.texts.loading;
      wanted.unshift({ url: data.image.url, name: "image.nii.gz", cal_min: low, cal_max: high });
    }
    const loading = wanted.map((one) => this.NVImage.loadFromUrl({ ...one, url: BASE + one.url }));
    return new Map((await Promise.all(loading)).map((volume, index) => [wanted[index].url, volume]));
  }

  put(data, fetched) {
    const nv = this.nv;
    // NiiVue would draw every voxel anew with each volume that comes or goes; look() does it once.
    nv.updateGLVolume = () => {};
    try {
      if (this.base !== data.image.url) {
        nv.volumes = [];
        this.volumes.clear();
        nv.addVolume(fetched.get(data.image.url));
        this.base = data.image.url;
        this.window = String(data.window);
        this.drawn = false;
      }
      const wanted = new Set(data.layers.map((layer) => layer.url));
      for (const [url, volume] of this.volumes) {
        if (wanted.has(url)) continue;
        nv.removeVolume(volume);
        this.volumes.delete(url);
      }
      for (const { url } of data.layers) {
        if (this.volumes.has(url)) continue;
        nv.addVolume(fetched.get(url));
        this.volumes.set(url, fetched.get(url));
      }
    } finally {
      delete nv.updateGLVolume; // the class's own again
    }
  }

  look(data) {
    const nv = this.nv;
    const looks = JSON.stringify([data.image, data.layers, data.window, data.outline]);
    if (looks !== this.shown) {
      if (this.window !== String(data.window)) {
        [nv.volumes[0].cal_min, nv.volumes[0].cal_max] = data.window; // else what the mouse has chosen stays
        this.window = String(data.window);
      }
      for (const layer of data.layers) {
        const volume = this.volumes.get(layer.url);
        volume.opacity = layer.opacity;
        if (layer.kind === "heat") [volume.cal_min, volume.cal_max] = layer.range;
        else volume.setColormapLabel(lookup(layer.colors));
      }
      nv.opts.atlasOutline = data.outline ? 1 : 0;
      this.refresh(JSON.stringify([this.base, this.window, ...this.volumes.keys()]));
      nv.createOnLocationChange(); // the line below names what is shown now
      this.shown = looks;
    }
    nv.opts.crosshairWidth = data.cross ? 0.3 : 0;
    if (data.zoom !== this.wanted) {
      this.zoomTo((this.wanted = data.zoom));
    }
    if (data.place && data.place.serial !== this.serial) {
      this.serial = data.place.serial;
      nv.scene.crosshairPos = nv.mm2frac(data.place.mm);
      nv.createOnLocationChange();
      nv.drawScene();
    }
  }

  refresh(content) {
    // The image takes by far the longest, so it is left alone where only what lies over it looks different.
    if (content !== this.refreshed) this.nv.updateGLVolume();
    else {
      this.nv.volumes.slice(1).forEach((volume, index) => this.nv.refreshLayers(volume, index + 1));
      this.nv.drawScene();
    }
    this.refreshed = content;
  }

  pen(data) {
    const bar = this.root.querySelector(".pen");
    bar.hidden = !data.pen;
    this.nv.setDrawingEnabled(Boolean(data.pen) && this.drawn);
    if (!data.pen || !this.drawn) return;
    this.nv.setDrawColormap(lookup(data.pen.colors));
    this.nv.setPenValue(Number(bar.querySelector("select").value), bar.querySelector("input").checked);
  }

  moved(location) {
    const values = location.values ?? [];
    const mm = Array.from(location.mm).slice(0, 3);
    const voxel = Array.from(location.vox).slice(0, 3).map(Math.round);
    const names = this.data.layers
      .map((layer, index) => {
        const value = values[index + 1]?.value;
        if (value === undefined) return "";
        if (layer.kind === "heat") return `${layer.name} ${value.toFixed(3)}`;
        return layer.colors.find((one) => one.value === Math.round(value))?.name ?? "";
      })
      .filter(Boolean);
    const intensity = values[0]?.value;
    const shown = intensity === undefined ? "" : `${Number(intensity.toPrecision(5))} ${this.data.unit}`.trim();
    const point = mm.map((value) => (Math.round(value * 10) / 10 + 0).toFixed(1)).join(" / ");
    this.status.textContent = [`${point} mm`, shown, ...names].filter(Boolean).join("   ");
    if (point === this.told) return;
    this.told = point;
    this.tellPlace({ mm, voxel });
  }

  key(event) {
    const step = { PageUp: 1, ArrowUp: 1, PageDown: -1, ArrowDown: -1 }[event.key];
    if (step) this.nv.moveCrosshairInVox(0, 0, step);
    else if (event.key === "+" || event.key === "-") this.zoom(event.key === "+" ? 1.25 : 0.8);
    else return;
    event.preventDefault();
  }

  zoom(factor) {
    const nv = this.nv;
    if (nv.opts.sliceType === VIEWS.render) {
      nv.setScale(nv.scene.volScaleMultiplier * factor);
      return;
    }
    this.zoomTo(nv.scene.pan2Dxyzmm[3] * factor);
  }

  zoomTo(wanted) {
    const nv = this.nv;
    const zoom = Math.min(Math.max(wanted, 1), 20);
    const point = nv.frac2mm(nv.scene.crosshairPos);
    const middle = nv.frac2mm([0.5, 0.5, 0.5]);
    // The point under the crosshair comes to the middle of what is seen.
    nv.setPan2Dxyzmm([0, 1, 2].map((axis) => (zoom > 1 ? middle[axis] - point[axis] : 0)).concat(zoom));
  }

  buttons() {
    const on = (name, call) => this.root.querySelector(`[data-do="${name}"]`).addEventListener("click", call);
    for (const view of Object.keys(VIEWS)) {
      on(view, () => {
        this.root.dataset.view = view;
        this.nv?.setSliceType(VIEWS[view]);
      });
    }
    on("closer", () => this.nv && this.zoom(1.25));
    on("wider", () => this.nv && this.zoom(0.8));
    on("draw", () => this.draw().catch((error) => this.fail(String(error))));
    on("undo", () => this.drawn && this.nv.drawUndo());
    on("send", () => this.drawn && this.send().catch((error) => (this.status.textContent = String(error.message))));
    for (const part of this.root.querySelectorAll(".pen select, .pen input")) {
      part.addEventListener("change", () => this.pen(this.data));
    }
  }

  async draw() {
    // The labels become the drawing, so that what is sent back is whole; the layer itself is hidden meanwhile.
    if (!this.nv || this.drawn) return;
    if (!(await this.nv.loadDrawingFromUrl(BASE + this.data.pen.url))) throw new Error(this.data.texts.failed);
    this.drawn = true;
    this.nv.setDrawOpacity(0.6);
    this.pen(this.data);
    const under = this.volumes.get(this.data.pen.url);
    if (under) this.nv.setOpacity(this.nv.volumes.indexOf(under), 0);
  }

  async send() {
    const file = await this.nv.saveImage({ filename: "", isSaveDrawing: true, volumeByIndex: 0 });
    const packed = new Blob([file]).stream().pipeThrough(new CompressionStream("gzip"));
    const answer = await fetch(BASE + this.data.pen.send, {
      method: "POST",
      headers: { "content-type": "application/gzip" },
      body: await new Response(packed).blob(),
    });
    if (!answer.ok) throw new Error(`${this.data.texts.not_sent} (${answer.status})`);
    this.say.trigger("drawing", (await answer.json()).drawing);
    this.nv.closeDrawing();
    this.drawn = false;
    this.shown = "";
    this.update(this.data);
  }
}

function fill(root, data) {
  for (const part of root.querySelectorAll("[data-text]")) part.textContent = data.texts[part.dataset.text];
  const select = root.querySelector(".pen select");
  const options = [{ value: 0, name: data.texts.erase }, ...(data.pen?.colors ?? [])];
  if (select.dataset.of === JSON.stringify(options)) return;
  select.dataset.of = JSON.stringify(options);
  select.replaceChildren(
    ...options.map((one) => {
      const option = document.createElement("option");
      option.value = String(one.value);
      option.textContent = one.name;
      return option;
    }),
  );
  if (options.length > 1) select.selectedIndex = 1;
}

const views = new WeakMap();

export default function (component) {
  const { data, parentElement, setStateValue, setTriggerValue } = component;
  const root = parentElement.querySelector(".medseg");
  fill(root, data);
  let view = views.get(root);
  if (view) {
    view.say = { state: setStateValue, trigger: setTriggerValue };
    view.update(data);
    return;
  }
  const name = renderer();
  if (name === null || !data.library || (SOFTWARE.test(name) && !data.software)) {
    root.dataset.state = "unavailable";
    const reason = name === null ? "no_webgl" : data.library ? "software" : "no_library";
    setStateValue("unavailable", reason);
    return;
  }
  view = new View(root, { state: setStateValue, trigger: setTriggerValue });
  views.set(root, view);
  view.update(data);
}
