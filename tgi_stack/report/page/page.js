'use strict';
const $ = (q, e = document) => e.querySelector(q), $$ = (q, e = document) => [...e.querySelectorAll(q)];
const D = JSON.parse($('#data').textContent), [R, O] = D.rows, T = D.items, M = D.names[1];

// An element: what is given is set as text, as an attribute or as a style, so that no data become markup.
function h(name, ...inner) {
  const [tag, cls] = name.split('.'), props = inner[0]?.constructor === Object ? inner.shift() : {};
  const e = /^(svg|line|text)$/.test(tag) ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  if (cls) e.setAttribute('class', cls);
  for (const k in props) if (k[0] === '$') e.style[k.slice(1)] = props[k]; else e.setAttribute(k, props[k]);
  e.append(...inner.flat(9).filter(x => x != null && x !== false));
  return e;
}
const num = v => v?.toLocaleString('en'), real = v => v && Math.abs(v) < .001 ? v.toExponential(0) : v?.toFixed(3);
const value = (t, c, i) => (/^(top|mass|delta)$/.test(c) ? real : num)(t[c][i]);
const pct = v => 100 * v + '%', most = p => Math.max(1e-9, ...p || []);
const idOf = (t, i) => t.id[i] ?? '#' + i, href = (view, id) => '#' + new URLSearchParams({view, id});

// Pictures: those in the page, and those of a folder that the reader chose.
const files = {};
function picture(t, i, alt = '') {
  const at = t.thumb?.[i], f = files[t.file?.[i]];
  const src = at != null ? 'data:image/webp;base64,' + D.thumbs[at] : f && (f.url ??= URL.createObjectURL(f));
  return src && h('img', {src, alt});
}
const shown = (t, i) => h('span.pic', picture(t, i, t.summary[i] || '') || 'no picture');
const said = i => T.title[i] || T.summary[i] || T.text[i] || T.id[i];
const flags = (t, i) => [t.error?.[i] && h('span.flag bad', t.error[i]), t.flags?.[i].map(f => h('span.flag', f))];
const words = (t, i) => [t.id, t.summary, t.title, t.text, t.query, t.message].map(c => c?.[i]).concat((t.cand?.[i] || []).concat(t.past?.[i] || []).map(said)).join('\n').toLowerCase();

// A list of rows, of which those in sight are drawn.
const lists = {};
function list(box) {
  const view = box.id, of = D.lists[view], grid = !of.columns.length, t = view === 'items' ? T : R, n = t.id.length, cache = [];
  const [body, find, only, sort] = ['rows', 'find', 'only', 'sort'].map(x => $(`[data-${x}]`, box));
  const L = lists[view] = {t, of, view, at: 0, draw, show};
  let key = '', down = false, later;
  function shape() {
    const s = getComputedStyle(body);
    return grid ? [parseFloat(s.getPropertyValue('--tall')) + 12, s.gridTemplateColumns.split(' ').length] : [46, 1];
  }
  function arrange() {
    const q = find.value.trim().toLowerCase(), tag = only?.value, c = t[key], by = new Intl.Collator('en', {numeric: true}).compare;
    L.order = [];
    for (let i = 0; i < n; i++)
      if ((!tag || t.tags[i].includes(+tag)) && (!q || (cache[i] ??= words(t, i)).includes(q))) L.order.push(i);
    if (c) L.order.sort((a, b) => {
      const x = c[a], y = c[b];
      return x == null || y == null ? (x == null) - (y == null) || a - b : (typeof x === 'string' ? by(x, y) : x - y) * (down ? -1 : 1) || a - b;
    });
    $('[data-told]', box).textContent = `${num(L.order.length)} of ${num(n)}`;
    L.at = 0; draw();
  }
  function draw(all) {
    if (box.hidden && !all) return;
    const [tall, wide] = shape(), m = L.order.length, lines = Math.ceil(m / wide), held = body.contains(document.activeElement);
    const first = all ? 0 : Math.max(0, Math.min(Math.floor(-body.getBoundingClientRect().top / tall) - 3, lines - 1)) * wide;
    const last = Math.min(m, first + (all ? 300 : (Math.ceil(innerHeight / tall) + 7) * wide));
    const above = first / wide * tall + 'px', below = (all ? 0 : (lines - Math.ceil(last / wide)) * tall) + 'px';
    const rows = L.order.slice(first, last).map((i, k) => (grid ? card : line)(i, first + k, m));
    const pad = $height => h('tr.pad', {'aria-hidden': true}, h('td', {$height}));
    if (grid) { body.style.paddingTop = above; body.style.paddingBottom = below; }
    else body.parentNode.setAttribute('aria-rowcount', m + 1);
    body.replaceChildren(...grid ? rows : [pad(above), ...rows, pad(below)]);
    if (held) focus();
  }
  const focus = () => $(`[data-k="${L.at}"]`, body)?.focus({preventScroll: true});
  function show(k, quiet) {
    L.at = k = Math.max(0, Math.min(L.order.length - 1, k));
    const [tall, wide] = shape(), over = $('.top').offsetHeight + 50, y = body.getBoundingClientRect().top + Math.floor(k / wide) * tall;
    if (y < over || y + tall > innerHeight) scrollBy(0, y - Math.max(over, innerHeight / 3));
    draw();
    if (!quiet) focus();
  }
  const link = (i, k, ...inner) => h('a', {href: href(view, idOf(t, i)), 'data-k': k}, ...inner);
  const card = (i, k, m) => h('div.card', {role: 'listitem', 'aria-setsize': m, 'aria-posinset': k + 1}, link(i, k, shown(t, i),
    h('span.words', h('span.what', t.summary[i] || t.title[i] || t.text[i] || t.message?.[i]), h('span.id', t.id[i])), h('span.flags', flags(t, i))));
  function line(i, k) {
    const p = t.p[i] || [], cells = {
      id: () => link(i, k, idOf(t, i)), doubts: () => flags(t, i),
      first: () => t.error[i] ? t.message[i] : [picture(T, t.cand[i][t.best[i][0]]), t.truth[i] === 1 && h('span.star', '\u2605 '), t.first[i], t.query[i] && D.job === 'probs' && h('span.soft', ' \u00b7 ' + t.query[i])],
      spark: () => h('div.spikes', {'aria-hidden': true}, t.best[i].slice(0, 24).map(c => h(t.pos[i].includes(c) ? 'i.truth' : 'i', {$height: pct(p[c] / most(p))}))),
    };
    return h('tr', {'aria-rowindex': k + 2}, of.columns.map(([c, , cls]) => h('td.' + cls, cells[c] ? cells[c]() : value(t, c, i))));
  }
  find.oninput = () => { clearTimeout(later); later = setTimeout(arrange, 100); };
  if (only) only.onchange = arrange;
  if (sort) sort.onchange = () => { key = sort.value; down = key !== 'id'; arrange(); };
  $$('[data-key]', box).forEach(b => b.onclick = () => {
    down = key === b.dataset.key && !down; key = b.dataset.key;
    $$('[aria-sort]', box).forEach(e => e.setAttribute('aria-sort', !e.contains(b) ? 'none' : down ? 'descending' : 'ascending'));
    arrange();
  });
  $$('.sizes input', box).forEach(x => x.onchange = () => { body.className = 'cards ' + x.value; draw(); });
  $('[data-end]', box).onclick = () => show(n);
  $$('[data-save]', box).forEach(b => b.onclick = () => save(`${view}.${b.value}`, {csv, trec}[b.value](L)));
  $$('[data-folder]', box).forEach(x => x.onchange = () => {
    for (const f of x.files) files[f.webkitRelativePath.replace(/^[^/]*\//, '')] = f;
    draw();
  });
  body.onclick = e => { if (!e.target.closest('a')) $('a', e.target.closest('tr') || h('p'))?.click(); };
  arrange();
}

// One row.
const facts = ({t, of}, i) => h('dl.pairs', of.facts.map(([name, c]) => t[c][i] != null && h('div', h('dt', name), h('dd', value(t, c, i)))));
const about = (title, ...inner) => [h('h3', title), ...inner];
const text = x => h('div.said', {tabindex: 0}, x);
function summary(L, i) {
  const t = L.t, change = t.change?.[i];
  return [h('div.big', shown(t, i), h('p', t.summary[i] || t.title[i])),
    change && about('Against ' + M, h('p', change.map(([kind, x]) => kind ? h(kind, x) : x))), facts(L, i), t.text[i] && about('Text', text(t.text[i]))];
}
// Where each candidate stood, and where it stands.
function slope(moved, before) {
  const y = k => 11 + k * 15, word = (x, k, w, anchor) => h('text', {x, y: y(k) + 4, 'text-anchor': anchor}, w);
  return h('svg.slope', {viewBox: `0 0 400 ${y(Math.max(...moved.flat())) + 12}`, role: 'img', 'aria-label': before + ', rank'}, word(66, 0, before, 'middle'), word(334, 0, 'rank', 'middle'),
    moved.map(([a, b, right]) => [h(right ? 'line.truth' : 'line', {x1: 75, x2: 325, y1: y(a), y2: y(b)}), word(66, a, a, 'end'), word(334, b, b, 'start')]));
}
function ranking(L, i) {
  const cand = R.cand[i], p = R.p[i], top = most(p), right = c => R.pos[i].includes(c), before = R.there[i] != null ? 'rank in ' + M : 'place in the input';
  const moved = R.best[i].map((c, k) => [R.before[i][c], k + 1, +right(c)]).filter(x => x[0]);
  const row = (c, k) => {
    const at = cand[c], v = p?.[c], s = R.spread[i]?.[c], up = R.before[i][c] - k - 1;
    return h(right(c) ? 'tr.truth' : 'tr', h('td.n', k + 1), h('td', picture(T, at)), h('td', right(c) && h('span.star', '\u2605 '), said(at), said(at) !== T.id[at] && h('div.id', T.id[at])),
      h('td', v != null && h('div.track', h('i', {$width: pct(v / top)}), s && h('b', {$left: pct((v - s) / top), $width: pct(2 * s / top)}))),
      h('td.n', real(v ?? R.score[i][c]), s != null && h('div.id', '\u00b1 ', real(s))), h('td.n', R.before[i][c] && (up > 0 ? '\u2191' + up : up < 0 ? '\u2193' + -up : '=')));
  };
  return [facts(L, i), R.query[i] && about(D.job === 'probs' ? 'Prompt' : 'Query', text(R.query[i])),
    R.past[i]?.length > 0 && about('History, the oldest first', h('ul.past', R.past[i].map(x => h('li', picture(T, x), said(x))))),
    cand.length > 0 && about('Candidates', h('div.scroll', {tabindex: 0}, h('table.cand', h('thead', h('tr', ['rank', 'picture', 'candidate', 'probability', 'value', 'moved'].map(x => h('th', {scope: 'col'}, x)))), h('tbody', R.best[i].map(row))))),
    moved.length > 1 && about('Places', slope(moved, before)),
    h('details', h('summary', `Raw reads (${R.reads[i].length})`), R.reads[i].map(r => h('p.mono', r[0].map((c, k) => `${T.id[cand[c]] ?? '?'} ${r[1][k]}`).join(', '))))];
}
let open;
function detail(L, i) {
  open = {L, i};
  const t = L.t, error = t.error?.[i], body = $('#detail-body');
  $('#detail-id').textContent = idOf(t, i);
  body.replaceChildren(h('div', flags(t, i), error && about('Failed', h('p', t.message[i])), (t.cand ? ranking : summary)(L, i)));
  $('#detail').dataset.of = L.view;
  if (!$('#detail').open) $('#detail').showModal();
  body.scrollTop = 0; body.focus();
}
function go(step) {
  const {L, i} = open, k = L.order.indexOf(i) + step;
  if (k in L.order) { L.show(k, true); location.hash = href(L.view, idOf(L.t, L.order[k])); }
}

// Files from the page; a cell that a spreadsheet would compute is made a text.
function cell(v) {
  const s = v == null ? '' : typeof v === 'string' && /^[=+\-@\t\r]/.test(v) ? "'" + v : String(v);
  return /[",\r\n]/.test(s) ? `"${s.replaceAll('"', '""')}"` : s;
}
const csv = ({t, of, order}) => [of.fields.map(f => f[0]), ...order.map(i => of.fields.map(([, c]) => [t[c][i]].flat().join(' ')))].map(r => r.map(cell).join() + '\n').join('');
const plain = s => s.replace(/[\s%]/gu, encodeURIComponent);
const trec = L => L.order.flatMap(i => R.best[i].map((c, k) => `${plain(idOf(R, i))} Q0 ${plain(T.id[R.cand[i][c]])} ${k + 1} ${R.score[i][c]} fastqwen\n`)).join('');
function save(download, content) {
  const url = URL.createObjectURL(new Blob([content]));
  h('a', {href: url, download}).click();
  setTimeout(() => URL.revokeObjectURL(url), 1e4);
}

// Temperature: the same answers, read softer or harder.
function heat() {
  const slider = $('#temperature'), judged = [];
  if (!slider) return;
  R.reads.forEach((reads, i) => {
    const n = R.cand[i].length, right = R.pos[i];
    if (right.length && n && reads.every(r => r[0].length === 1)) reads.forEach(r => judged.push([[r], right, r[0][0]]));
    else if (right.length && n > 1 && reads.every(r => r[0].length === n)) judged.push([reads, right]);
  });
  const points = $$('[data-bin]'), bars = $$('[data-bar]'), {x0, x1, y0, y1} = points[0].closest('svg').dataset;
  const x = v => +x0 + v * (x1 - x0), y = v => +y0 + v * (y1 - y0), put = (id, v) => $$(id).forEach(e => { e.textContent = v.toFixed(4); });
  const set = (e, at) => { for (const k in at) e.setAttribute(k, at[k]); };
  function turn() {
    const t = 10 ** slider.value, bins = [...Array(10)].map(() => [0, 0, 0]), total = judged.length || 1;
    let loss = 0, inside = 0, hits = 0, ece = 0;
    for (const [reads, right, one] of judged) {
      const p = [];
      for (const [order, logs, prior] of reads) {
        const v = logs.map((l, k) => (l - (prior?.[k] ?? 0)) / t), top = Math.max(...v), e = v.map(l => Math.exp(l - top)), sum = e.reduce((a, b) => a + b);
        e.forEach((w, k) => { p[order[k]] = (p[order[k]] || 0) + w / sum / reads.length; });
      }
      const best = one ?? p.indexOf(Math.max(...p)), bin = bins[Math.min(9, Math.floor(p[best] * 10))], hit = right.includes(best);
      bin[0]++; bin[1] += p[best]; bin[2] += hit; hits += hit;
      if (one == null && right.some(c => c >= 0)) { loss -= Math.log(right.reduce((a, c) => a + (p[c] || 0), 1e-300)); inside++; }
    }
    const largest = Math.max(...bins.map(b => b[0]));
    bins.forEach(([count, sum, good], k) => {
      const c = $$('#bins tbody tr')[k].cells, tall = .16 * count / largest, mean = sum / (count || 1), share = good / (count || 1);
      set(points[k], {cx: x(mean), cy: y(share), r: count && 3.5 + 7 * Math.sqrt(count / largest)});
      set(bars[k], {y: y(tall), height: y(0) - y(tall)});
      [num(count), ...count ? [real(mean), real(share)] : ['', '']].forEach((v, j) => { c[j + 2].textContent = v; });
      ece += Math.abs(sum - good) / total;
    });
    $('#t').textContent = t.toFixed(2);
    put('#ece', ece); put('#right', hits / total); put('#loss', loss / (inside || 1));
  }
  slider.oninput = turn;
  $$('[data-t]').forEach(b => b.onclick = () => { slider.value = Math.log10(b.dataset.t); turn(); });
  turn();
}

// Views, links and keys.
const tabs = $$('nav a'), views = tabs.map(a => a.dataset.view), ready = {};
let view, frame;
function prepare(name) {
  if (!ready[name] && D.lists[name]) list($('#' + name));
  if (!ready[name] && name === 'trust') heat();
  ready[name] = true;
}
function route() {
  const want = new URLSearchParams(location.hash.slice(1)), id = want.get('id'), to = want.get('view') ?? (id == null ? views[0] : views.find(v => D.lists[v]));
  if (views.includes(to) && to !== view) {
    view = to;
    for (const s of $$('section')) s.hidden = s.id !== view;
    for (const a of tabs) a.setAttribute('aria-current', a.dataset.view === view);
    scrollTo(0, 0); prepare(view); redraw();
  }
  const L = lists[view];
  if (id == null || !L) return $('#detail').close();
  const at = L.t.id.indexOf(id), i = at < 0 && id[0] === '#' ? +id.slice(1) : at;
  if (!(i in L.t.id)) return;
  L.at = Math.max(0, L.order.indexOf(i)); detail(L, i);
}
function redraw() {
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(() => lists[view]?.draw());
}
function measure() {
  document.body.style.setProperty('--top', $('.top').offsetHeight + 'px'); redraw();
}
addEventListener('hashchange', route);
addEventListener('scroll', redraw, {passive: true});
addEventListener('resize', measure);
addEventListener('beforeprint', () => views.forEach(v => { prepare(v); lists[v]?.draw(true); }));
addEventListener('afterprint', redraw);
$('#detail').onclose = () => { history.replaceState(0, '', '#view=' + view); open.L.show(open.L.at); };
$('#before').onclick = () => go(-1);
$('#after').onclick = () => go(1);
$$('#command').forEach(b => b.onclick = async () => {
  await navigator.clipboard.writeText(`${D.show[0]} '${idOf(R, open.i).replaceAll("'", "'\\''")}' ${D.show[1]}`.trim());
  b.textContent = 'Copied'; setTimeout(() => { b.textContent = 'Copy as command'; }, 1500);
});
addEventListener('keydown', e => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.matches('input,select')) return;
  const L = lists[view], k = e.key, step = {j: 1, k: -1}[k], end = {g: 0, G: 1e9}[k], over = $('#detail').open;
  if ($('#help').open || !step && over) return;
  if (step && over) go(step);
  else if (step && L) L.show(L.at + (document.activeElement.dataset.k ? step : 0));
  else if (k === '?') $('#help').showModal();
  else if (k === '/' && L) $('[data-find]', $('#' + view)).focus();
  else if (end != null && L) L.show(end);
  else if (views[k - 1]) location.hash = '#view=' + views[k - 1];
  else return;
  e.preventDefault();
});
measure(); route();
document.body.dataset.ready = performance.now();
