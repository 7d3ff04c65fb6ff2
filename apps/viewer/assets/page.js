// Leaves for the sign-in page once the session is over; Streamlit alone would try to connect for ever.
// The question does not count as use of the session (medseg/access/gate.py).
const EVERY_MS = 5000;

export default function (component) {
  if (!component.data) return undefined; // nobody must sign in
  const { ask, then } = component.data;
  const look = async () => {
    const answer = await fetch(ask, { cache: "no-store" }).catch(() => null); // no server: nothing to leave for
    if (answer?.status === 401) window.location.assign(then);
  };
  const timer = setInterval(look, EVERY_MS);
  return () => clearInterval(timer);
}
