// A picture that tells where it was clicked, how far the wheel was turned, and where the pointer rests.
// Texts are set as text: what a header says can never become markup.
const WHEEL_MS = 60;
const REST_MS = 250;

export default function (component) {
  const { parentElement, data, setTriggerValue } = component;
  const figure = parentElement.querySelector("figure");
  const image = parentElement.querySelector("img");
  figure.tabIndex = 0;
  image.src = data.source;
  image.alt = data.alt;
  parentElement.querySelector("figcaption").textContent = data.readout;

  const place = (event) => {
    const box = image.getBoundingClientRect();
    return { down: (event.clientY - box.top) / box.height, right: (event.clientX - box.left) / box.width };
  };
  let turned = 0;
  let sending = null;
  const scroll = (steps) => {
    turned += steps;
    sending ??= setTimeout(() => {
      if (turned) setTriggerValue("scrolled", turned);
      turned = 0;
      sending = null;
    }, WHEEL_MS);
  };
  image.onclick = (event) => {
    figure.focus({ preventScroll: true });
    setTriggerValue("clicked", { ...place(event), ruler: event.shiftKey });
  };
  image.onwheel = (event) => {
    event.preventDefault();
    scroll(Math.sign(event.deltaY));
  };
  let rest = null;
  image.onpointermove = (event) => {
    clearTimeout(rest);
    if (event.buttons === 0) rest = setTimeout(() => setTriggerValue("rested", place(event)), REST_MS);
  };
  image.onpointerleave = () => clearTimeout(rest);
  figure.onkeydown = (event) => {
    const steps = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
    if (steps === undefined) return;
    event.preventDefault();
    scroll(steps);
  };
  return () => {
    clearTimeout(rest);
    clearTimeout(sending);
  };
}
