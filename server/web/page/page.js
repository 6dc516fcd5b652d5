// Follows the coordinator's status and hands it to the views. Fetches it once, then listens; when the event stream is refused or breaks, asks
// every few seconds until it is back.

import {byId, setClass, setText} from "/dom.js";
import {render, tick} from "/views.js";

const retryMs = 3000;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function setLive(state, text) {
  setClass(byId("live"), `live ${state}`);
  setText(byId("live-text"), text);
}

async function fetchStatus() {
  const response = await fetch("/api/status", {cache: "no-store"});
  if (!response.ok) throw new Error(`status ${response.status}`);
  return response.json();
}

// Resolves once the stream is over.
function listen() {
  return new Promise((resolve) => {
    const events = new EventSource("/api/events");
    addEventListener("pagehide", () => events.close(), {once: true});
    events.onopen = () => setLive("on", "live");
    events.onmessage = (event) => render(JSON.parse(event.data));
    events.onerror = () => {
      events.close();
      resolve();
    };
  });
}

async function follow() {
  for (;;) {
    try {
      render(await fetchStatus());
      setLive("slow", `every ${retryMs / 1000}\u202fs`);
      await listen();
    } catch {
      setLive("off", "coordinator not reachable, trying again");
    }
    await sleep(retryMs);
  }
}

setInterval(tick, 1000);
follow();
