// The server's clock as seen from here. Its times are turned into ours by the smallest difference
// that was ever seen between an event's time and its arrival; everything above that is delay, such
// as that of events which a reconnect brings late.

let difference = null; // our seconds minus the server's

// Seconds that only go forward, whatever somebody does to the computer's clock.
export const now = () => (performance.timeOrigin + performance.now()) / 1000;

export function observe(serverTime) {
  const seen = now() - serverTime;
  if (difference === null || seen < difference) difference = seen;
}

export const toLocal = (serverTime) => serverTime + (difference ?? 0);

// How long ago something was that the server dates.
export const age = (serverTime) => Math.max(0, now() - toLocal(serverTime));
