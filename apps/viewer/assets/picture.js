// A picture that tells where it was clicked, how far the wheel was turned, and where the pointer rests.
// Texts are set as text: what a header says can never become markup.
const WHEEL_MS = 60;
const REST_MS = 250;

export default function (component) {
  const { parentElement, data, setTriggerValue } = component;
  const figure = parentElement.querySelector("figure");
  const image = parentElement.querySelector("img");
  figure.tabIndex = 0;
  figure.style.height = `${data.height}vh`;
  image.src = data.source;
  image.alt = data.alt;
  parentElement.querySelector("span").textContent = data.title;
  parentElement.querySelector("figcaption").textContent = data.readout;

  // The picture fills its box as far as its shape allows; what is left over is black and no part of it.
  const place = (event) => {
    const box = image.getBoundingClientRect();
    const scale = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight);
    const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
    const right = (event.clientX - box.left - (box.width - width) / 2) / width;
    const down = (event.clientY - box.top - (box.height - height) / 2) / height;
    return right >= 0 && right <= 1 && down >= 0 && down <= 1 ? { down, right } : null;
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
    const at = place(event);
    if (at) setTriggerValue("clicked", { ...at, ruler: event.shiftKey });
  };
  image.onwheel = (event) => {
    event.preventDefault();
    scroll(Math.sign(event.deltaY));
  };
  let rest = null;
  image.onpointermove = (event) => {
    clearTimeout(rest);
    const at = place(event);
    if (at && event.buttons === 0) rest = setTimeout(() => setTriggerValue("rested", at), REST_MS);
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
