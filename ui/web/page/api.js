// The way to the machine: who we are, questions and sockets.
//
// The token comes in the part of the address that browsers keep to themselves, and is kept for this
// tab alone. There is no cookie: those go to every port of a host.

const KEY = 'rhea.token';

/** The server does not know our token. */
export class Unknown extends Error {}

/** Takes the token out of the page's address, where nobody shall see it any longer. */
export function takeToken() {
  const said = new URLSearchParams(location.hash.slice(1)).get('token');
  if (said) {
    setToken(said);
    history.replaceState(null, '', location.pathname);
  }
  return Boolean(sessionStorage.getItem(KEY));
}

export function setToken(token) {
  // What is pasted may be the whole address.
  sessionStorage.setItem(KEY, token.trim().replace(/^.*#token=/, ''));
}

function token() {
  return sessionStorage.getItem(KEY) ?? '';
}

async function ask(path, options = {}) {
  const headers = { Authorization: `Bearer ${token()}` };
  const answer = await fetch(path, { ...options, headers, cache: 'no-store' });
  if (answer.status === 401) throw new Unknown('The token is wrong.');
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}

export const machine = () => ask('./api/machine');
export const figures = () => ask('./api/figures');

/** Has the guest's keyboard type a text; the answer comes when it has. */
export const type = (text, signal) => ask('./api/type', { method: 'POST', body: text, signal });

/** What a WebSocket is opened with. */
export function channel(path) {
  const url = new URL(`./ws/${path}`, location.href);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  return { url: url.href, protocols: ['rhea', `token.${token()}`] };
}

export function open(path) {
  const { url, protocols } = channel(path);
  const socket = new WebSocket(url, protocols);
  socket.binaryType = 'arraybuffer';
  return socket;
}
