'use strict';
const $ = id => document.getElementById(id);
const el = (tag, text, name) => {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  if (name) e.className = name;
  return e;
};
const WORDS = { good: 'The time is right', doubtful: 'Look at the time', bad: 'Do not trust the time' };

// Lengths of time, given in µs, as the commands write them.
function amount(us) {
  if (us === null || us === undefined) return 'unknown';
  const a = Math.abs(us);
  if (a < 999.5) return us.toFixed(0) + ' µs';
  if (a < 9995) return (us / 1e3).toFixed(2) + ' ms';
  if (a < 99950) return (us / 1e3).toFixed(1) + ' ms';
  if (a < 999500) return (us / 1e3).toFixed(0) + ' ms';
  if (a < 99.95e6) return (us / 1e6).toFixed(2) + ' s';
  return span(us / 1e6);
}
function span(s) {
  s = Math.round(Math.abs(s));
  if (s < 120) return s + ' s';
  if (s < 7200) return Math.floor(s / 60) + ' min';
  if (s < 172800) return Math.floor(s / 3600) + ' h ' + Math.floor(s / 60) % 60 + ' min';
  return Math.floor(s / 86400) + ' days';
}
const side = us => Math.abs(us) < 0.5 ? '' : us > 0 ? 'behind' : 'ahead';
const count = (n, what) => n + ' ' + what + (n === 1 ? '' : 's');
const hour = iso => (iso || '').slice(11, 19);

// The clock of the range, carried by this device between two looks.
let base = null;
function tick() {
  if (!base) return;
  $('clock').textContent = new Date(base.ms + performance.now() - base.at).toISOString().slice(11, 19);
}
setInterval(tick, 200);

function figure(name, value, more) {
  const box = el('div'), dd = el('dd', value);
  if (more) dd.append(el('small', more));
  box.append(el('dt', name), dd);
  return box;
}

function row(tone, name, value, why) {
  const box = el('div');
  box.append(el('span', undefined, 'dot ' + tone), el('b', name), el('span', value, 'value'));
  if (why) box.append(el('span', why, 'why'));
  return box;
}

const ROLES = {
  selected: ['good', 'in use'], waiting: ['', 'not heard yet'], unused: ['', 'not used'],
  falseticker: ['bad', 'outvoted'], unreachable: ['doubtful', 'silent'], rejected: ['bad', 'unusable'],
};

function server(s) {
  const [tone, role] = ROLES[s.role] || ['', s.role];
  const why = [s.why ? role + ': ' + s.why : role];
  if (s.delay_us !== null) why.push('round trip ' + amount(s.delay_us));
  if (s.last_reply_s !== null) why.push('heard ' + span(s.last_reply_s) + ' ago');
  const value = s.offset_us === null ? '' : amount(Math.abs(s.offset_us)) + ' ' + side(s.offset_us);
  return row(tone, s.name, value, why.join(', '));
}

function timer(t) {
  const name = t.name || t.timer_id || 'timer';
  const why = [];
  if (t.connected === true) why.push('connected');
  if (t.connected === false) why.push('not connected');
  if (t.last_heard) why.push('last heard ' + hour(t.last_heard));
  if (t.message) why.push(t.message);
  const bound = t.bound_ms ? 'within ' + amount(t.bound_ms * 1e3) : '';
  if (bound && !t.calibrated) why.push('uncalibrated');
  return row(t.connected ? 'good' : 'doubtful', name, bound, why.join(', '));
}

function part(id, list, make) {
  $(id).replaceChildren(...list.map(make));
  const box = $(id + '-part');
  if (box) box.hidden = list.length === 0;
}

// This phone's time, where no server has said any: measured, weighed by the daemon, and taken only
// after a yes.
const EXCHANGES = 12, FRESH_MS = 45000;
const POSSIBLE = 'phone' in document.body.dataset;
let offer = null, busy = false;

function phoneSays(words, ask) {
  $('phone-words').textContent = words;
  $('phone-ask').textContent = ask || 'Measure again';
  $('phone-ask').disabled = busy;
  $('phone-ask').hidden = !!offer;
  $('phone-yes').hidden = $('phone-no').hidden = !offer;
}
function phoneRests() {
  offer = null;
  phoneSays('The clock of this phone can start the range\'s. It is worth some two seconds, and gives way to any server.',
    'Use this phone\'s time');
}
function phoneShown(possible) {
  if (!POSSIBLE || possible === !$('phone').hidden) return;
  $('phone').hidden = !possible;
  phoneRests();
}

// Of several exchanges the quickest: half its round trip is all that it can be wrong by.
async function compared() {
  let best = null, low = Infinity, high = -Infinity;
  for (let n = 0; n < EXCHANGES; n++) {
    const begun = performance.now();
    const reply = await fetch('/api/clock', { cache: 'no-store' });
    const ended = performance.now();
    if (!reply.ok) throw new Error('the page\'s server does not answer');
    const { monotonic_ns } = await reply.json();
    if (!best || ended - begun < best.delay) best = { middle: (begun + ended) / 2, delay: ended - begun, monotonic_ns };
    // Whole milliseconds, rounded down: the largest is nearest.
    const apart = Date.now() - performance.now();
    low = Math.min(low, apart);
    high = Math.max(high, apart);
    await new Promise(done => setTimeout(done, 60));
  }
  if (high - low > 250) throw new Error('this phone\'s clock was set meanwhile');
  return { utc_ms: high + best.middle, monotonic_ns: Math.round(best.monotonic_ns), delay_ms: best.delay };
}
async function post(said, apply) {
  const reply = await fetch('/api/set-time', {
    method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ ...said, apply }),
  });
  const told = await reply.json();
  if (!reply.ok) throw new Error(told.error);
  return told;
}
// One thing at a time; what goes wrong is said, and nothing is done.
async function phoneDoes(words, what) {
  if (busy) return;
  busy = true;
  offer = null;
  phoneSays(words);
  let said;
  try { said = await what(); } catch (e) { said = 'Not done: ' + (e.message || 'no connection') + '.'; }
  busy = false;
  phoneSays(said);
}
$('phone-ask').onclick = () => phoneDoes('Comparing the clocks …', async () => {
  const said = await compared();
  const told = await post(said, false);
  offer = { ...said, at: performance.now() };
  const shown = new Date(said.utc_ms).toISOString().slice(0, 19).replace('T', ' ');
  return `This phone says ${shown} UTC. ${told.message} (Quickest round trip ${amount(said.delay_ms * 1e3)}; a phone's own clock counts as right within 2 s.)`;
});
$('phone-yes').onclick = () => {
  const { at, ...said } = offer;
  phoneDoes('Setting …', async () => {
    if (performance.now() - at > FRESH_MS) throw new Error('that was measured too long ago');
    const told = await post(said, true);
    return told.message[0].toUpperCase() + told.message.slice(1) + '.';
  });
};
$('phone-no').onclick = phoneRests;

let lastSync;
function show(s) {
  delete document.body.dataset.gone;
  document.body.dataset.tone = s.tone;
  $('word').textContent = WORDS[s.tone];
  $('verdict').textContent = s.verdict + (/[.!]$/.test(s.verdict) ? '' : '.');
  document.title = (s.tone === 'good' ? '✓ ' : s.tone === 'bad' ? '✗ ' : '! ') + 'Range time';
  const ms = (s.corrected_utc_ns || s.utc_ns) / 1e6;
  // Small differences are the network's; the clock must not jitter.
  if (!base || Math.abs(base.ms + performance.now() - base.at - ms) > 150) base = { ms, at: performance.now() };
  tick();
  const hints = s.hints.slice();
  if (s.alert) hints.unshift('Alert since ' + hour(s.alert.since) + ': ' + s.alert.message + '.');
  $('hints').replaceChildren(...hints.map(h => el('li', h)));
  $('hints').hidden = hints.length === 0;
  const bound = s.error_bound_us === null ? 'bound unknown' : 'give or take ' + amount(s.error_bound_us);
  const figures = [
    figure('Clock', s.offset_us === null ? 'unknown' : (amount(Math.abs(s.offset_us)) + ' ' + side(s.offset_us)).trim(), bound),
    figure('Quality', s.quality, s.verified ? 'verified' : 'not verified'),
    figure('Frequency', s.frequency_ppm === null ? 'unknown' : s.frequency_ppm.toFixed(3).replace('-', '−') + ' ppm',
      s.frequency_bound_ppm === null ? '' : '± ' + s.frequency_bound_ppm.toFixed(3)),
    figure('Last measured', hour(s.last_sync_time) || 'never', count(s.sync_count, 'measurement') + ', ' + count(s.steps, 'step')),
  ];
  if (s.temperature_c !== null) figures.push(figure('Processor', s.temperature_c.toFixed(1) + ' °C'));
  if (s.holdover) figures.push(figure('Without servers', span(s.holdover.age_s),
    s.holdover.within_threshold_for_s === null ? 'limit passed' : 'good for ' + span(s.holdover.within_threshold_for_s)));
  $('figures').replaceChildren(...figures);
  // In the first seconds servers may still answer.
  phoneShown(s.takes_word && (s.state !== 'starting' || !s.servers.length));
  part('servers', s.servers, server);
  if (!s.servers.length) $('servers').textContent = 'No server is asked.';
  part('timers', s.timers, timer);
  part('locks', s.locks, l => row('doubtful', l.name, span(l.ends_in_s) + ' left'));
  $('about').textContent = 'leadville-timesync ' + s.version + ', up ' + span(s.uptime_s) +
    (s.steering ? '' : ', the clock is only watched');
  if (s.sync_count !== lastSync) { lastSync = s.sync_count; draw(); }
}

function gone(error, hint) {
  document.body.dataset.tone = 'bad';
  document.body.dataset.gone = '';
  phoneShown(false);
  base = null;
  $('clock').textContent = '--:--:--';
  $('word').textContent = 'No time daemon';
  $('verdict').textContent = error[0].toUpperCase() + error.slice(1) + '.';
  document.title = '✗ Range time';
  $('hints').replaceChildren(...(hint ? [el('li', 'Try: ' + hint)] : []));
  $('hints').hidden = !hint;
}

const KINDS = {
  alert: 'ALERT', alert_cleared: 'alert over', correction: 'corrected', step: 'STEP', foreign_step: 'CLOCK SET BY ANOTHER',
  lock: 'held still for', unlock: 'free again after', state: '', source_silent: 'silent:', source_heard: 'answers again:',
  set_time: 'time taken from', source_outvoted: 'outvoted:', source_agrees: 'agrees again:', refused: 'refused',
};
// What a timer says, in words; frames and estimates that only programs want are left out.
function ofTimer(e) {
  const name = e.name || e.timer_id || 'timer';
  const within = e.bound_us ? ', within ' + amount(e.bound_us) : '';
  if (e.type === 'start') return `${name}: string ${e.string_number} begins`;
  if (e.type === 'shot') return `${name}: shot ${e.shot_number} at ${e.time_s.toFixed(2)} s${within}`;
  if (e.type === 'stop') return `${name}: string ${e.string_number} is over, ${count(e.shots, 'shot')}`;
  if (e.message) return e.message.includes(name) ? e.message : `${name}: ${e.message}`;
  return '';
}

function happened(e) {
  if (e.event === 'sync' || (e.event === 'timer' && !ofTimer(e))) return;
  const bad = ['alert', 'step', 'foreign_step', 'refused'].includes(e.event);
  const words = [KINDS[e.event] ?? e.event.replace(/_/g, ' ')];
  if (e.event === 'timer') words.splice(0, 1, ofTimer(e));
  else if (e.message) words.push(e.message);
  else for (const key of ['name', 'source', 'level', 'why', 'what']) if (e[key]) words.push(key === 'why' ? `(${e[key]})` : e[key]);
  if (e.event === 'set_time') words.push({ phone: 'a phone,', neighbour: 'another computer of the range,' }[e.how] ?? 'a person,');
  const us = e.worst_us ?? e.offset_us;
  if (us !== undefined && us !== null) words.push(amount(us).replace('-', '−'));
  if (e.event === 'correction' && e.how) words.push('(' + e.how + ')');
  const li = el('li');
  li.append(el('time', hour(e.utc)), el('span', words.filter(Boolean).join(' '), bad ? 'bad-text' : ''));
  const list = $('events');
  list.querySelector('.quiet')?.remove();
  list.prepend(li);
  while (list.children.length > 60) list.lastChild.remove();
}

// What happened before this page was opened.
fetch('/api/history?since=24h').then(r => r.json()).then(past => {
  const list = $('events');
  for (const mark of (past.marks || []).slice(-20).reverse()) {
    list.querySelector('.quiet')?.remove();
    const li = el('li');
    li.append(el('time', hour(mark.time)), el('span', [KINDS[mark.kind] ?? mark.kind, mark.text].filter(Boolean).join(' ')));
    list.append(li);
  }
}).catch(() => {});

// The chart is drawn by the server, for the width that is there.
let since = '1h', drawn = 0, waiting = false;
async function draw(now) {
  const wait = drawn + 5000 - Date.now();
  if (!now && wait > 0) {
    if (!waiting) { waiting = true; setTimeout(() => { waiting = false; draw(); }, wait); }
    return;
  }
  drawn = Date.now();
  const width = Math.round($('chart').clientWidth) || 320;
  const reply = await fetch(`/chart.svg?since=${since}&width=${width}`).catch(() => null);
  if (!reply || !reply.ok) return;
  const svg = new DOMParser().parseFromString(await reply.text(), 'image/svg+xml').documentElement;
  if (svg.nodeName === 'svg') $('chart').replaceChildren(document.importNode(svg, true));
}
for (const button of document.querySelectorAll('[data-since]')) button.onclick = () => {
  since = button.dataset.since;
  for (const b of document.querySelectorAll('[data-since]')) b.setAttribute('aria-pressed', b === button);
  draw(true);
};
let width = 0;
new ResizeObserver(() => {
  const w = $('chart').clientWidth;
  if (Math.abs(w - width) > 20) { width = w; draw(true); }
}).observe($('chart'));

function listen() {
  const source = new EventSource('/api/events');
  source.addEventListener('status', m => show(JSON.parse(m.data)));
  source.addEventListener('event', m => happened(JSON.parse(m.data)));
  source.addEventListener('gone', m => { const e = JSON.parse(m.data); gone(e.error, e.hint); });
  source.onerror = () => {
    gone('this page has lost its connection; it tries again', '');
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  };
}
listen();
