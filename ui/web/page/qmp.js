// The machine protocol: commands, their answers, and events.

import { open } from './api.js';

const encoder = new TextEncoder();

/** One connection. It dispatches `closed`, and events of the machine by their names. */
export class Qmp extends EventTarget {
  #socket = open('qmp');
  #decoder = new TextDecoder();
  #rest = '';
  #waiting = new Map();
  #last = 0;

  constructor() {
    super();
    /** Resolves once commands are welcome. */
    this.ready = new Promise((resolve, reject) => {
      this.#socket.addEventListener('close', () => {
        const error = new Error('The connection is lost.');
        reject(error);
        for (const { reject } of this.#waiting.values()) reject(error);
        this.#waiting.clear();
        this.dispatchEvent(new Event('closed'));
      });
      this.#socket.addEventListener('message', ({ data }) => this.#receive(data, resolve));
    });
    this.ready.catch(() => {});
  }

  #receive(data, resolve) {
    const lines = (this.#rest + this.#decoder.decode(data, { stream: true })).split('\n');
    this.#rest = lines.pop();
    for (const line of lines.filter((line) => line.trim())) {
      const message = JSON.parse(line);
      if (message.QMP) {
        this.execute('qmp_capabilities').then(resolve);
      } else if (message.event) {
        this.dispatchEvent(new CustomEvent(message.event, { detail: message.data ?? {} }));
      } else {
        const waiting = this.#waiting.get(message.id);
        this.#waiting.delete(message.id);
        if (message.error) waiting?.reject(new Error(message.error.desc));
        else waiting?.resolve(message.return);
      }
    }
  }

  /** Carries out a command; the answer is its result. */
  execute(execute, args = {}) {
    const id = ++this.#last;
    return new Promise((resolve, reject) => {
      if (this.#socket.readyState !== WebSocket.OPEN) {
        reject(new Error('There is no connection.'));
        return;
      }
      this.#waiting.set(id, { resolve, reject });
      this.#socket.send(encoder.encode(JSON.stringify({ execute, arguments: args, id })));
    });
  }

  on(names, listener) {
    for (const name of names) this.addEventListener(name, ({ detail }) => listener(detail, name));
  }

  close() {
    this.#socket.close();
  }
}
