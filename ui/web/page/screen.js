// The guest's screen, keyboard and mouse.

import { RFB } from './novnc.js';
import { channel, type } from './api.js';
import { by, fault, make, notice, pressed, show } from './dialogs.js';

/** Keys that browsers keep to themselves, or keyboards do not have: name, key code, key symbol. */
const KEYS = {
  ctrl: ['ControlLeft', 0xffe3],
  alt: ['AltLeft', 0xffe9],
  shift: ['ShiftLeft', 0xffe1],
  meta: ['MetaLeft', 0xffeb],
  esc: ['Escape', 0xff1b],
  tab: ['Tab', 0xff09],
  enter: ['Enter', 0xff0d],
  backspace: ['Backspace', 0xff08],
  del: ['Delete', 0xffff],
  print: ['PrintScreen', 0xff61],
  f: (n) => [`F${n}`, 0xffbd + n],
};

const CHORDS = [
  ['Esc', 'esc'],
  ['Tab', 'tab'],
  ['Windows', 'meta'],
  ['Alt-Tab', 'alt', 'tab'],
  ['Alt-F4', 'alt', 'f4'],
  ['Ctrl-Alt-Backspace', 'ctrl', 'alt', 'backspace'],
  ['Print screen', 'print'],
  ['F1', 'f1'], ['F2', 'f2'], ['F8', 'f8'], ['F10', 'f10'], ['F12', 'f12'],
  ['Ctrl-Alt-F1', 'ctrl', 'alt', 'f1'], ['Ctrl-Alt-F2', 'ctrl', 'alt', 'f2'],
  ['Ctrl-Alt-F3', 'ctrl', 'alt', 'f3'], ['Ctrl-Alt-F7', 'ctrl', 'alt', 'f7'],
];

const BUTTONS = ['left', 'middle', 'right', 'side', 'extra'];
const POINTER_CHECK = 2000;

const key = (name) => (/^f\d+$/.test(name) ? KEYS.f(Number(name.slice(1))) : KEYS[name]);

/** The screen's view. It is connected while `machine` is. */
export class Screen {
  #rfb = null;
  #qmp = null;
  #head = '';
  #absolute = true;
  #moved = null;
  #typing = Promise.resolve();
  #stage = by('stage');

  constructor() {
    const stage = this.#stage;
    stage.addEventListener('keydown', (event) => {
      if (event.target === stage && event.key === 'Enter') {
        event.preventDefault();
        this.#rfb?.focus();
      }
    });
    // Before the guest gets it: the way out, as with QEMU's own windows.
    stage.addEventListener('keydown', (event) => this.#leave(event), { capture: true });
    this.#addBar();
    this.#addMouse();
    this.#addTouch();
  }

  /** The machine is there. */
  connect(qmp, screens) {
    this.#qmp = qmp;
    const list = by('head');
    list.replaceChildren(
      ...screens.map(({ number, title }) => make('option', { value: number, textContent: title })),
    );
    list.hidden = screens.length < 2;
    this.#open();
    this.#watchPointer(qmp);
  }

  /** The machine has gone. */
  disconnect() {
    this.#qmp = null;
    this.#rfb?.disconnect();
  }

  /** The view is shown. */
  shown() {
    this.#scale();
    this.#checkPointer();
  }

  #open() {
    this.#rfb?.disconnect();
    const { url, protocols } = channel(this.#head === '' ? 'screen' : `screen/${this.#head}`);
    const rfb = new RFB(this.#stage, url, { wsProtocols: protocols });
    this.#rfb = rfb;
    rfb.background = 'transparent';
    rfb.qualityLevel = 8;
    by('stage-note').textContent = '';
    this.#scale();
    rfb.addEventListener('disconnect', () => {
      if (rfb !== this.#rfb) return;
      this.#rfb = null;
      by('stage-note').textContent = 'The screen is not connected.';
    });
  }

  #scale() {
    if (!this.#rfb) return;
    const how = by('scale').value;
    this.#rfb.resizeSession = how === 'resize';
    this.#rfb.scaleViewport = how === 'fit';
  }

  /** Ctrl+Alt+G takes the keyboard and the mouse back. */
  #leave(event) {
    if (!(event.ctrlKey && event.altKey && event.code === 'KeyG')) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    // Has all keys that are down go up.
    window.dispatchEvent(new Event('blur'));
    document.exitPointerLock?.();
    by('scale').focus();
  }

  /** Presses keys one after the other, and releases them the other way round. */
  chord(...names) {
    const keys = names.map(key);
    for (const [code, symbol] of keys) this.#rfb?.sendKey(symbol, code, true);
    for (const [code, symbol] of keys.reverse()) this.#rfb?.sendKey(symbol, code, false);
  }

  /** Types a text by the guest's layout, after what is being typed. */
  type(text) {
    this.#typing = this.#typing.then(async () => {
      try {
        const { missing } = await type(text);
        if (missing) notice(`The keyboard's layout has no ${[...missing].join(' ')}`);
      } catch (error) {
        fault(error);
      }
    });
  }

  #addBar() {
    by('scale').value = localStorage.getItem('rhea.scale') ?? 'fit';
    by('scale').addEventListener('change', () => {
      localStorage.setItem('rhea.scale', by('scale').value);
      this.#scale();
    });
    by('head').addEventListener('change', () => {
      this.#head = by('head').value;
      this.#open();
    });
    by('fullscreen').hidden = !document.fullscreenEnabled;
    pressed(by('fullscreen'), async () => {
      await by('view-screen').requestFullscreen();
      // Where that is possible the guest gets Escape and its like too.
      await navigator.keyboard?.lock?.().catch(() => {});
      this.#rfb?.focus();
    });
    pressed(by('cad'), () => this.chord('ctrl', 'alt', 'del'));
    const menu = by('keys');
    for (const [title, ...names] of CHORDS) {
      const button = make('button', { textContent: title });
      button.addEventListener('click', () => {
        this.chord(...names);
        menu.open = false;
        menu.querySelector('summary').focus();
      });
      by('key-list').append(button);
    }
    menu.addEventListener('keydown', ({ key }) => {
      if (key !== 'Escape' || !menu.open) return;
      menu.open = false;
      menu.querySelector('summary').focus();
    });
    document.addEventListener('click', ({ target }) => {
      if (!menu.contains(target)) menu.open = false;
    });
    pressed(by('paste'), async () => {
      const area = by('paste-text');
      area.value = await navigator.clipboard?.readText?.().catch(() => '') ?? '';
      if (await show(by('paste-dialog'))) this.type(area.value);
      area.value = '';
    });
  }

  /** A guest that wants movements gets them while the mouse is captured. */
  #addMouse() {
    const stage = this.#stage;
    const locked = () => document.pointerLockElement === stage;
    const capture = () => stage.requestPointerLock().catch?.(fault);
    by('capture').addEventListener('click', () => capture());
    document.addEventListener('pointerlockchange', () => {
      if (locked()) notice('Esc or Ctrl+Alt+G gives the mouse back.');
    });
    const wanted = (event) => !this.#absolute && event.pointerType !== 'touch' && this.#rfb;
    const swallow = (event) => {
      event.preventDefault();
      event.stopImmediatePropagation();
    };
    const listen = (name, action) =>
      stage.addEventListener(name, (event) => {
        if (locked()) {
          swallow(event);
          action(event);
        }
      }, { capture: true });
    stage.addEventListener('mousedown', (event) => {
      if (!wanted(event) || locked()) return;
      swallow(event);
      this.#rfb.focus();
      capture();
    }, { capture: true });
    listen('mousemove', (event) => {
      this.#moved ??= this.#later();
      this.#moved.x += event.movementX;
      this.#moved.y += event.movementY;
    });
    const button = (event, down) =>
      BUTTONS[event.button] && this.#send([{ type: 'btn', data: { button: BUTTONS[event.button], down } }]);
    listen('mousedown', (event) => button(event, true));
    listen('mouseup', (event) => button(event, false));
    listen('contextmenu', () => {});
    listen('wheel', ({ deltaY }) => {
      const wheel = deltaY < 0 ? 'wheel-up' : 'wheel-down';
      const press = (down) => ({ type: 'btn', data: { button: wheel, down } });
      if (deltaY) this.#send([press(true)]).then(() => this.#send([press(false)]));
    });
  }

  /** Movements of one frame are sent together. */
  #later() {
    requestAnimationFrame(() => {
      const { x, y } = this.#moved;
      this.#moved = null;
      const rel = (axis, value) => ({ type: 'rel', data: { axis, value: Math.round(value) } });
      this.#send([rel('x', x), rel('y', y)]);
    });
    return { x: 0, y: 0 };
  }

  async #send(events) {
    await this.#qmp?.execute('input-send-event', { events }).catch(() => {});
  }

  /** Which kind of mouse the guest uses may change at any time, and no event tells. */
  async #watchPointer(qmp) {
    while (qmp === this.#qmp) {
      if (!document.hidden && !by('view-screen').hidden) await this.#checkPointer();
      await new Promise((resolve) => setTimeout(resolve, POINTER_CHECK));
    }
  }

  async #checkPointer() {
    const mice = await this.#qmp?.execute('query-mice').catch(() => []);
    this.#absolute = mice?.find(({ current }) => current)?.absolute ?? true;
    by('capture').hidden = this.#absolute;
    if (this.#absolute && document.pointerLockElement) document.exitPointerLock();
  }

  /** Keyboards of telephones give texts, not keys. */
  #addTouch() {
    const field = by('touch-input');
    const RESERVE = '\u00a0'.repeat(20);
    const keep = () => {
      field.value = RESERVE;
      field.setSelectionRange(RESERVE.length, RESERVE.length);
    };
    by('touch-keys').addEventListener('click', () => {
      keep();
      field.focus();
    });
    field.addEventListener('input', () => {
      const { value } = field;
      let same = 0;
      while (same < RESERVE.length && value[same] === RESERVE[same]) same += 1;
      for (let gone = RESERVE.length; gone > same; gone -= 1) this.chord('backspace');
      if (value.length > same) this.type(value.slice(same));
      keep();
    });
  }
}
