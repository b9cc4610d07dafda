// The page: who we are, what the machine does, and which view is shown.

import * as api from './api.js';
import { Activity } from './activity.js';
import { by, confirm, fault, make, notice, pressed } from './dialogs.js';
import { Disks } from './disks.js';
import { Qmp } from './qmp.js';

const RETRY = 2000;

/** What run states are called; others have names of their own. */
const STATES = {
  running: 'Running',
  paused: 'Paused',
  prelaunch: 'Not started',
  shutdown: 'Off',
  suspended: 'Sleeping',
  'guest-panicked': 'Crashed',
  'io-error': 'Stopped by an I/O error',
};
const STATE_EVENTS = ['STOP', 'RESUME', 'SHUTDOWN', 'RESET', 'SUSPEND', 'WAKEUP', 'GUEST_PANICKED'];

const tabs = by('tabs');
/** Views by the names of their tabs. */
const views = new Map();
let qmp = null;
let paused = false;

function state(state, text) {
  document.body.dataset.state = state;
  by('state').textContent = text;
}

// Views

function addView(id, title, view, section = by(`view-${id}`)) {
  const tab = make('button', { id: `tab-${id}`, textContent: title, role: 'tab', tabIndex: -1 });
  tab.setAttribute('aria-controls', section.id);
  tab.setAttribute('aria-selected', 'false');
  tab.addEventListener('click', () => choose(id));
  tabs.append(tab);
  views.set(id, { tab, section, view });
}

function choose(id) {
  for (const [name, { tab, section }] of views) {
    tab.setAttribute('aria-selected', String(name === id));
    tab.tabIndex = name === id ? 0 : -1;
    section.hidden = name !== id;
  }
  by('welcome').hidden = true;
  const chosen = views.get(id);
  chosen.tab.scrollIntoView({ inline: 'nearest', block: 'nearest' });
  sessionStorage.setItem('rhea.view', id);
  chosen.view.shown();
}

tabs.addEventListener('keydown', (event) => {
  const all = [...tabs.children];
  const at = all.indexOf(document.activeElement);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const tab = all.at(to % all.length);
  tab.click();
  tab.focus();
});

async function buildViews({ terminals, screens }) {
  const [{ Screen }, { Console }] = await Promise.all([import('./screen.js'), import('./terminal.js')]);
  addView('screen', 'Screen', new Screen());
  const addTerminal = (id, title, path, actions) => {
    const terminal = new Console(id, title, path, actions);
    addView(id, title, terminal, terminal.view);
  };
  for (const { id, title } of terminals) {
    const sendBreak = () => qmp?.execute('chardev-send-break', { id });
    const actions = title.startsWith('Serial') ? { Break: sendBreak } : {};
    addTerminal(`terminal-${id}`, title, `terminal/${encodeURIComponent(id)}`, actions);
  }
  if (!terminals.some(({ title }) => title === 'Monitor')) addTerminal('monitor', 'Monitor', 'monitor');
  addView('disks', 'Disks', new Disks());
  addView('activity', 'Activity', new Activity());
  const before = sessionStorage.getItem('rhea.view');
  const first = screens.length || !terminals.length ? 'screen' : `terminal-${terminals[0].id}`;
  return views.has(before) ? before : first;
}

// The machine

async function showState() {
  const { status, running } = await qmp.execute('query-status');
  paused = !running;
  state(running ? 'running' : 'paused', STATES[status] ?? status);
  const pause = by('pause');
  pause.querySelector('use').setAttribute('href', running ? '#i-pause' : '#i-play');
  pause.querySelector('span').textContent = running ? 'Pause' : 'Resume';
}

async function connect() {
  const known = await api.machine();
  const title = known.name || 'Virtual machine';
  by('name').textContent = title;
  document.title = `${title} · Rhea`;
  by('version').textContent = known.version;
  qmp = new Qmp();
  const [first] = await Promise.all([views.size ? null : buildViews(known), qmp.ready]);
  qmp.on(STATE_EVENTS, () => showState().catch(fault));
  qmp.addEventListener('closed', lost, { once: true });
  await showState();
  for (const { view } of views.values()) view.connect(qmp, known.screens);
  for (const button of document.querySelectorAll('.power button')) button.disabled = false;
  if (first) choose(first);
}

/** The connection has gone, and perhaps the machine. */
function lost() {
  qmp = null;
  state('lost', 'Not connected');
  for (const { view } of views.values()) view.disconnect();
  for (const button of document.querySelectorAll('.power button')) button.disabled = true;
  setTimeout(retry, RETRY);
}

async function retry() {
  try {
    await connect();
  } catch (error) {
    if (error instanceof api.Unknown) ask(error.message);
    else setTimeout(retry, RETRY);
  }
}

pressed(by('pause'), () => qmp.execute(paused ? 'cont' : 'stop'));
pressed(by('powerdown'), async () => {
  await qmp.execute('system_powerdown');
  notice('The guest is asked to shut down.');
});
pressed(by('reset'), async () => {
  const text = 'The guest starts anew at once; what it has not written is lost.';
  if (await confirm('Reset the machine?', text, 'Reset')) await qmp.execute('system_reset');
});
pressed(by('quit'), async () => {
  const text = 'The emulator ends at once, as if the plug were pulled.';
  if (await confirm('Quit the emulator?', text, 'Quit')) await qmp.execute('quit');
});

// Getting in

function ask(why = '') {
  state('connecting', 'Not connected');
  for (const { section } of views.values()) section.hidden = true;
  by('welcome').hidden = false;
  by('login-fault').textContent = why;
  by('token').focus();
}

by('login').addEventListener('submit', (event) => {
  event.preventDefault();
  api.setToken(by('token').value);
  by('token').value = '';
  by('welcome').hidden = true;
  enter();
});

async function enter() {
  try {
    await connect();
  } catch (error) {
    if (error instanceof api.Unknown) {
      ask(error.message);
    } else {
      state('lost', 'Not connected');
      setTimeout(retry, RETRY);
    }
  }
}

if (api.takeToken()) enter();
else ask();
