// What the machine does: processors, drives, network cards.

import { figures } from './api.js';
import { by, make } from './dialogs.js';
import { size } from './disks.js';

const PERIOD = 1000;
const SAMPLES = 120;
const COLOURS = 4;
const SVG = 'http://www.w3.org/2000/svg';

const rate = (value) => `${size(value)}/s`;
const percent = (value) => `${value.toFixed(0)} %`;

/** The next power of two that is not below a value. */
const ceiling = (value) => 2 ** Math.ceil(Math.log2(value));

/** Lines over the last two minutes. */
class Chart {
  #lines = new Map();
  #top = make('span', { className: 'top' });
  #legend = make('ul', { className: 'legend' });
  #svg = document.createElementNS(SVG, 'svg');

  constructor(title, words, least, most = Infinity) {
    Object.assign(this, { title, words, least, most });
    this.#svg.setAttribute('viewBox', `0 0 ${SAMPLES - 1} 100`);
    this.#svg.setAttribute('preserveAspectRatio', 'none');
    this.#svg.setAttribute('role', 'img');
    for (const y of [25, 50, 75]) {
      const line = document.createElementNS(SVG, 'line');
      for (const [name, value] of Object.entries({ x1: 0, x2: SAMPLES - 1, y1: y, y2: y, class: 'grid' })) {
        line.setAttribute(name, value);
      }
      this.#svg.append(line);
    }
    this.card = make('article', { className: 'card chart' }, make('h3', {}, title, this.#top), this.#svg, this.#legend);
  }

  /** Adds a sample: values by the names of lines. */
  add(values) {
    for (const name of this.#lines.keys()) if (!(name in values)) this.#remove(name);
    for (const [name, value] of Object.entries(values)) {
      const line = this.#lines.get(name) ?? this.#create(name);
      line.samples.push(value);
      if (line.samples.length > SAMPLES) line.samples.shift();
      line.value.textContent = this.words(value);
    }
    this.#draw();
    const said = Object.entries(values).map(([name, value]) => `${name} ${this.words(value)}`);
    this.#svg.setAttribute('aria-label', `${this.title}: ${said.join(', ') || 'none'}`);
  }

  #create(name) {
    const colour = `k${this.#lines.size % COLOURS}`;
    const drawn = document.createElementNS(SVG, 'polyline');
    drawn.setAttribute('class', colour);
    this.#svg.append(drawn);
    const value = make('span');
    const entry = make('li', { className: colour }, make('span', { textContent: name }), value);
    this.#legend.append(entry);
    const line = { samples: [], drawn, value, entry };
    this.#lines.set(name, line);
    return line;
  }

  #remove(name) {
    const { drawn, entry } = this.#lines.get(name);
    drawn.remove();
    entry.remove();
    this.#lines.delete(name);
  }

  #draw() {
    const lines = [...this.#lines.values()];
    const highest = Math.max(this.least, ...lines.flatMap(({ samples }) => samples));
    const top = Math.min(ceiling(highest), this.most);
    this.#top.textContent = this.words(top);
    for (const { samples, drawn } of lines) {
      const first = SAMPLES - samples.length;
      const point = (value, at) => `${first + at},${(99 - (Math.min(value, top) / top) * 97).toFixed(1)}`;
      drawn.setAttribute('points', samples.map(point).join(' '));
    }
  }
}

/** The view of what the machine does. It goes on while the page is looked at. */
export class Activity {
  #connected = false;
  #last = null;
  #charts = [
    new Chart('Processors', percent, 100, 100),
    new Chart('Drives', rate, 2 ** 16),
    new Chart('Network', rate, 2 ** 14),
  ];

  constructor() {
    by('charts').append(...this.#charts.map(({ card }) => card));
    setInterval(() => this.#sample(), PERIOD);
  }

  connect() {
    this.#connected = true;
    this.#last = null;
  }

  disconnect() {
    this.#connected = false;
  }

  shown() {}

  async #sample() {
    if (!this.#connected || document.hidden) {
      this.#last = null;
      return;
    }
    const now = performance.now();
    const said = await figures().catch(() => null);
    const before = this.#last;
    this.#last = said && { now, said };
    if (!said || !before) return;
    const seconds = (now - before.now) / 1000;
    const since = (value, earlier = value) => Math.max(0, value - earlier) / seconds;
    const [processors, drives, network] = this.#charts;
    processors.add(Object.fromEntries(said.processors.map((time, n) =>
      [`CPU ${n}`, Math.min(100, since(time, before.said.processors[n]) / 1e7)])));
    const flows = (kind, inward, outward) => Object.fromEntries(said[kind].flatMap((now) => {
      const earlier = before.said[kind].find(({ name }) => name === now.name);
      return [[`${now.name} ${inward}`, since(now.in, earlier?.in)], [`${now.name} ${outward}`, since(now.out, earlier?.out)]];
    }));
    drives.add(flows('drives', 'read', 'written'));
    network.add(flows('cards', 'in', 'out'));
  }
}
