// Serial ports, monitors and whatever else is a terminal.

import { FitAddon, Terminal } from './xterm.js';
import { open } from './api.js';
import { by, make, pressed } from './dialogs.js';

// Not before it is needed.
document.head.prepend(make('link', { rel: 'stylesheet', href: './xterm.css' }));

const SCROLLBACK = 5000;
/** What programs on serial lines count on; what is narrower scrolls. */
const MIN_COLUMNS = 80;

const KEYS = [
  ['Tab', '\t'],
  ['Esc', '\x1b'],
  ['Ctrl-C', '\x03'],
  ['\u2191', '\x1b[A', 'Up'],
  ['\u2193', '\x1b[B', 'Down'],
];

/** A terminal's view. */
export class Console {
  #path;
  #socket = null;
  #shown = false;
  #box = make('div', { className: 'terminal-box' });
  #fit = new FitAddon();
  #terminal = new Terminal({
    fontSize: matchMedia('(max-width: 620px)').matches ? 12 : 14,
    fontFamily: 'ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace',
    scrollback: SCROLLBACK,
    cursorBlink: !matchMedia('(prefers-reduced-motion: reduce)').matches,
    screenReaderMode: false,
    theme: {
      background: '#12161c', foreground: '#dfe5ec', cursor: '#7fb0ff',
      selectionBackground: '#33527d',
      black: '#1b2129', brightBlack: '#6b7685',
    },
  });

  /**
   * `path` leads to it; `actions` are more buttons: a title, and what it does.
   */
  constructor(id, title, path, actions = {}) {
    this.#path = path;
    const bar = make('div', { className: 'bar', role: 'toolbar', ariaLabel: title });
    for (const [title, bytes, name] of KEYS) {
      const button = make('button', { textContent: title, ariaLabel: name ?? title });
      button.addEventListener('click', () => this.#send(bytes));
      bar.append(button);
    }
    for (const [title, action] of Object.entries(actions)) {
      const button = make('button', { textContent: title });
      pressed(button, action);
      bar.append(button);
    }
    const clear = make('button', { textContent: 'Clear' });
    clear.addEventListener('click', () => this.#terminal.clear());
    bar.append(clear, make('span', { className: 'hint', textContent: 'Ctrl+Alt+G leaves the terminal' }));
    /** What is shown. */
    this.view = make('section', { id: `view-${id}`, className: 'view', role: 'tabpanel', hidden: true });
    this.view.setAttribute('aria-labelledby', `tab-${id}`);
    this.view.append(this.#box, bar);
    by('views').append(this.view);

    this.#terminal.loadAddon(this.#fit);
    this.#terminal.onData((text) => this.#send(text));
    this.#terminal.onBinary((bytes) => this.#socket?.send(Uint8Array.from(bytes, (c) => c.charCodeAt(0))));
    this.#terminal.attachCustomKeyEventHandler((event) => {
      const leaves = event.ctrlKey && event.altKey && event.code === 'KeyG';
      if (leaves && event.type === 'keydown') bar.firstChild.focus();
      return !leaves;
    });
    new ResizeObserver(() => this.#resize()).observe(this.#box);
  }

  /** The view is shown; the first time this connects. */
  shown() {
    if (!this.#shown) {
      this.#shown = true;
      this.#terminal.open(this.#box);
      this.connect();
    }
    this.#resize();
    if (!matchMedia('(pointer: coarse)').matches) this.#terminal.focus();
  }

  /** Connects, if somebody has looked. */
  connect() {
    if (!this.#shown) return;
    this.disconnect();
    const socket = open(this.#path);
    this.#socket = socket;
    // All that is still known comes again.
    this.#terminal.reset();
    socket.addEventListener('message', ({ data }) => this.#terminal.write(new Uint8Array(data)));
    socket.addEventListener('close', () => {
      if (socket === this.#socket) this.#terminal.write('\r\n\x1b[2m[not connected]\x1b[0m\r\n');
    });
  }

  disconnect() {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #send(text) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(new TextEncoder().encode(text));
  }

  #resize() {
    const size = this.view.hidden ? null : this.#fit.proposeDimensions();
    if (size?.rows > 1) this.#terminal.resize(Math.max(size.cols, MIN_COLUMNS), size.rows);
  }
}
