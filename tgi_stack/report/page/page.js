const doc = document, $ = (q, e = doc) => e.querySelector(q), $$ = (q, e = doc) => [...e.querySelectorAll(q)];
const {ceil, floor, max, min, sqrt} = Math, on = addEventListener, cut = (v, n) => v?.toFixed(n);

// The data: columns, packed. What lists sort and count by is read at once, all else of a row with the rows beside it.
const opened = t => { for (const k in t) { const {at, of} = t[k] ?? 0; if (of) t[k] = at.map(p => of[p]); } return t; };
async function unpack(e) {
  const s = atob(e.textContent), bytes = new Uint8Array(s.length);
  for (let k = 0; k < s.length; k++) bytes[k] = s.charCodeAt(k);
  return opened(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).json());
}
const D = await unpack($('#head')), R = opened(D.rows), M = D.other, all = [...R.id.keys()], blocks = $$('.block'), asked = [];
let T, items, thumbs;
const known = () => items ??= unpack($('#known')).then(t => T = t), lacks = rows => rows.some(i => !R.status?.[i]);
const need = rows => Promise.all([...new Set(rows.map(i => i / D.size | 0))].map(b => asked[b] ??= load(b)));
async function load(b) {
  const [more] = await Promise.all([unpack(blocks[b]), known()]);
  more.reads?.flat().forEach(r => r[0] ||= [...r[1].keys()]);
  for (const k in more) { R[k] ??= []; more[k].forEach((x, j) => R[k][b * D.size + j] = x); }
}

const set = (e, at) => { for (const k in at) if (k[0] === '$') e.style[k.slice(1)] = at[k]; else e.setAttribute(k, at[k]); };
// An element: what is given is set as text, as an attribute or as a style, so that no data become markup.
function h(name, ...inner) {
  const [tag, cls] = name.split('.'), props = inner[0]?.constructor === Object ? inner.shift() : {};
  const e = doc.createElementNS('http://www.w3.org/' + (/^(svg|line|text)$/.test(tag) ? '2000/svg' : '1999/xhtml'), tag);
  set(e, cls ? {class: cls, ...props} : props);
  e.append(...inner.flat(9).filter(x => x != null && x !== false));
  return e;
}
const num = v => v?.toLocaleString('en'), real = v => v && Math.abs(v) < .001 ? v.toExponential(0) : cut(v, 3);
const value = (t, c, i) => (/^(top|mass|delta)$/.test(c) ? real : num)(t[c][i]);
const pct = v => 100 * v + '%', most = p => max(1e-9, ...p || []);
const idOf = (t, i) => t.id[i] ?? '#' + i, href = (view, id) => '#' + new URLSearchParams({view, id});

// Pictures: those in the page, and those of a folder that the reader chose.
const files = {};
function picture(t, i, alt = '') {
  const at = t.thumb?.[i], f = files[t.file?.[i]];
  const src = at != null ? 'data:image/webp;base64,' + (thumbs ??= $('#thumbs').textContent.split('\n'))[at] : f && (f.url ??= URL.createObjectURL(f));
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
  const shape = ({gridAutoRows: tall, gridTemplateColumns: wide} = getComputedStyle(body)) => [parseFloat(tall) + 12 || 46, wide.split(' ').length];
  function arrange() {
    const q = find.value.trim().toLowerCase();
    if (q && t === R && lacks(all)) return need(all).then(arrange);
    const tag = only?.value, c = t[key], by = new Intl.Collator('en', {numeric: true}).compare;
    L.order = [];
    for (let i = 0; i < n; i++)
      if ((!tag || t.tags[i].includes(+tag)) && (!q || (cache[i] ??= words(t, i)).includes(q))) L.order.push(i);
    if (c) L.order.sort((a, b) => {
      const x = c[a], y = c[b];
      return x == null || y == null ? (x == null) - (y == null) : (x.at ? by(x, y) : x - y) * (down ? -1 : 1);
    });
    $('[data-told]', box).textContent = `${num(L.order.length)} of ${num(n)}`;
    L.at = 0;
    return draw();
  }
  function draw(print, take) {
    if (box.hidden && !print) return;
    const [tall, wide] = shape(), m = L.order.length, lines = ceil(m / wide), held = body.contains(doc.activeElement);
    const first = print ? 0 : max(0, min(floor(-body.getBoundingClientRect().top / tall) - 3, lines - 1)) * wide;
    const last = min(m, first + (print ? 300 : (ceil(innerHeight / tall) + 7) * wide));
    const above = first / wide * tall + 'px', below = (print ? 0 : (lines - ceil(last / wide)) * tall) + 'px';
    const seen = L.order.slice(first, last);
    if (t === R && lacks(seen)) return need(seen).then(() => draw(print, take));
    const rows = seen.map((i, k) => (grid ? card : line)(i, first + k, m)), pad = $height => h('tr.pad', {'aria-hidden': true}, h('td', {$height}));
    set(...grid ? [body, {$paddingTop: above, $paddingBottom: below}] : [body.parentNode, {'aria-rowcount': m + 1}]);
    body.replaceChildren(...grid ? rows : [pad(above), ...rows, pad(below)]);
    if (held || take) $(`[data-k="${L.at}"]`, body)?.focus({preventScroll: true});
  }
  function show(k, quiet) {
    L.at = k = max(0, min(L.order.length - 1, k));
    const [tall, wide] = shape(), over = $('.top').offsetHeight + 50, y = body.getBoundingClientRect().top + floor(k / wide) * tall;
    if (y < over || y + tall > innerHeight) scrollBy(0, y - max(over, innerHeight / 3));
    draw(false, !quiet);
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
    return h('tr', {'aria-rowindex': k + 2}, of.columns.map(([c, , cls]) => h('td.' + cls, (cells[c] ?? value)(t, c, i))));
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
  $$('[data-save]', box).forEach(b => b.onclick = async () => { await need(all);
    h('a', {href: URL.createObjectURL(new Blob([{csv, trec}[b.value](L)])), download: `${view}.${b.value}`}).click();
  });
  $$('[data-folder]', box).forEach(x => x.onchange = () => {
    for (const f of x.files) files[f.webkitRelativePath.replace(/^[^/]*\//, '')] = f;
    draw();
  });
  body.onclick = e => e.target.closest('a') || $('a', e.target.closest('tr') ?? h('p'))?.click();
  return arrange();
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
  return h('svg.slope', {viewBox: `0 0 400 ${y(max(...moved.flat())) + 12}`, role: 'img', 'aria-label': before + ', rank'}, word(66, 0, before, 'middle'), word(334, 0, 'rank', 'middle'),
    moved.map(([a, b, right]) => [h(right ? 'line.truth' : 'line', {x1: 75, x2: 325, y1: y(a), y2: y(b)}), word(66, a, a, 'end'), word(334, b, b, 'start')]));
}
function ranking(L, i) {
  const cand = R.cand[i], p = R.p[i], top = most(p), right = c => R.pos[i].includes(c), was = c => R.before[i] === 0 ? c + 1 : R.before[i]?.[c], before = R.there[i] != null ? 'rank in ' + M : 'place in the input';
  const moved = R.best[i].map((c, k) => [was(c), k + 1, +right(c)]).filter(x => x[0]);
  const row = (c, k) => {
    const at = cand[c], v = p?.[c], s = R.spread[i]?.[c], up = was(c) - k - 1;
    return h(right(c) ? 'tr.truth' : 'tr', h('td.n', k + 1), h('td', picture(T, at)), h('td', right(c) && h('span.star', '\u2605 '), said(at), said(at) !== T.id[at] && h('div.id', T.id[at])),
      h('td', v != null && h('div.track', h('i', {$width: pct(v / top)}), s && h('b', {$left: pct((v - s) / top), $width: pct(2 * s / top)}))),
      h('td.n', real(v ?? R.score[i]?.[c]), s != null && h('div.id', '\u00b1 ', real(s))), h('td.n', was(c) && (up > 0 ? '\u2191' + up : up < 0 ? '\u2193' + -up : '=')));
  };
  return [facts(L, i), R.query[i] && about(D.job === 'probs' ? 'Prompt' : 'Query', text(R.query[i])),
    R.past[i]?.length > 0 && about('History, the oldest first', h('ul.past', R.past[i].map(x => h('li', picture(T, x), said(x))))),
    cand.length > 0 && about('Candidates', h('div.scroll', {tabindex: 0}, h('table.cand', $('#heads').content.cloneNode(true), h('tbody', R.best[i].map(row))))),
    moved.length > 1 && about('Places', slope(moved, before)),
    h('details', h('summary', `Raw reads (${R.reads[i].length})`), R.reads[i].map(r => h('p.mono', r[0].map((c, k) => `${T.id[cand[c]] ?? '?'} ${r[1][k]}`).join(', '))))];
}
let open;
const box = $('#detail'), help = $('#help');
function detail(L, i) {
  open = {L, i};
  const t = L.t, error = t.error?.[i], body = $('#detail-body');
  $('#detail-id').textContent = idOf(t, i);
  body.replaceChildren(h('div', flags(t, i), error && about('Failed', h('p', t.message[i])), (t.cand ? ranking : summary)(L, i)));
  box.dataset.of = L.view;
  if (!box.open) box.showModal();
  body.scrollTop = 0; body.focus();
}
function go(step) {
  const {L, i} = open, k = L.order.indexOf(i) + step;
  if (k in L.order) { L.show(k, true); location.hash = href(L.view, idOf(L.t, L.order[k])); }
}

// Files from the page; a cell that a spreadsheet would compute is made a text.
function cell(s) {
  if (/^[=+\-@\t\r]/.test(s)) s = "'" + s;
  return /[",\r\n]/.test(s) ? `"${s.replaceAll('"', '""')}"` : s;
}
const csv = ({t, of: {fields}, order}) => [fields.map(f => f[0]), ...order.map(i => fields.map(([, c]) => [t[c][i]].flat().join(' ')))].map(r => r.map(cell).join() + '\n').join('');
const plain = s => s.replace(/[\s%]/gu, encodeURIComponent);
const trec = L => L.order.flatMap(i => R.best[i].map((c, k) => `${plain(idOf(R, i))} Q0 ${plain(T.id[R.cand[i][c]])} ${k + 1} ${(R.score[i] ?? R.p[i])[c]} fastqwen\n`)).join('');

// Temperature: the same answers, read softer or harder.
async function heat() {
  const slider = $('#temperature'), judged = [];
  if (!slider) return;
  await need(all);
  R.judged.forEach((how, i) => judged.push(...how === 1 ? R.reads[i].map(r => [[r], R.pos[i], r[0][0]]) : how ? [[R.reads[i], R.pos[i]]] : []));
  const points = $$('[data-bin]'), bars = $$('[data-bar]'), {x0, x1, y0, y1} = points[0].closest('svg').dataset;
  const x = v => +x0 + v * (x1 - x0), y = v => +y0 + v * (y1 - y0), put = (id, v) => $$(id).forEach(e => e.textContent = cut(v, 4));
  function turn() {
    const t = 10 ** slider.value, bins = [...Array(10)].map(() => [0, 0, 0]), total = judged.length || 1;
    let loss = 0, inside = 0, hits = 0, ece = 0;
    for (const [reads, right, one] of judged) {
      const p = [];
      for (const [order, logs, prior] of reads) {
        const v = logs.map((l, k) => (l - (prior?.[k] ?? 0)) / t), top = max(...v), e = v.map(l => Math.exp(l - top)), sum = e.reduce((a, b) => a + b);
        e.forEach((w, k) => { p[order[k]] = (p[order[k]] || 0) + w / sum / reads.length; });
      }
      const best = one ?? p.indexOf(max(...p)), bin = bins[min(9, floor(p[best] * 10))], hit = right.includes(best);
      bin[0]++; bin[1] += p[best]; bin[2] += hit; hits += hit;
      if (one == null && right.some(c => c >= 0)) { loss -= Math.log(right.reduce((a, c) => a + (p[c] || 0), 1e-300)); inside++; }
    }
    const largest = max(...bins.map(b => b[0]));
    bins.forEach(([count, sum, good], k) => {
      const c = $$('#bins tbody tr')[k].cells, tall = .16 * count / largest, n = count || 1, mean = sum / n, share = good / n;
      set(points[k], {cx: x(mean), cy: y(share), r: count && 3.5 + 7 * sqrt(count / largest)});
      set(bars[k], {y: y(tall), height: y(0) - y(tall)});
      [num(count), count && real(mean), count && real(share)].forEach((v, j) => c[j + 2].textContent = v || '');
      ece += Math.abs(sum - good) / total;
    });
    $('#t').textContent = cut(t, 2);
    put('#ece', ece); put('#right', hits / total); put('#loss', loss / (inside || 1));
  }
  slider.oninput = turn;
  $$('[data-t]').forEach(b => b.onclick = () => { slider.value = Math.log10(b.dataset.t); turn(); });
  turn();
}

// Views, links and keys.
const tabs = $$('nav a'), views = tabs.map(a => a.dataset.view), ready = {};
let view, frame;
const prepare = name => ready[name] ??= D.lists[name] ? known().then(() => list($('#' + name))) : (name === 'trust' && heat(), true);
async function route() {
  const {hash} = location, want = new URLSearchParams(hash.slice(1)), id = want.get('id'), to = want.get('view') ?? (id == null ? views[0] : views.find(v => D.lists[v]));
  if (views.includes(to) && to !== view) {
    view = to;
    for (const s of $$('section')) s.hidden = s.id !== view;
    for (const a of tabs) a.setAttribute('aria-current', a.dataset.view === view);
    scrollTo(0, 0); redraw();
  }
  await prepare(view);
  const L = lists[view], at = L?.t.id.indexOf(id), i = at < 0 && id?.[0] === '#' ? +id.slice(1) : at;
  if (L?.t === R && i in R.id) await need([i]);
  if (hash !== location.hash) return;
  if (id == null || !L) return box.close();
  if (!(i in L.t.id)) return;
  L.at = max(0, L.order.indexOf(i)); detail(L, i);
}
function redraw() {
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(() => lists[view]?.draw());
}
function measure() {
  doc.body.style.setProperty('--top', $('.top').offsetHeight + 'px');
  redraw();
}
on('hashchange', route);
on('scroll', redraw, {passive: true});
on('resize', measure);
on('beforeprint', async () => { for (const v of views) { await prepare(v); lists[v]?.draw(true); } });
on('afterprint', redraw);
box.onclose = () => { history.replaceState(0, '', '#view=' + view); open.L.show(open.L.at); };
$('#before').onclick = () => go(-1);
$('#after').onclick = () => go(1);
$$('#command').forEach(b => b.onclick = async () => {
  await navigator.clipboard.writeText(`${D.show[0]} '${idOf(R, open.i).replaceAll("'", "'\\''")}' ${D.show[1]}`.trim());
  b.textContent = 'Copied'; setTimeout(() => b.textContent = 'Copy as command', 1500);
});
on('keydown', e => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.matches('input,select')) return;
  const L = lists[view], k = e.key, step = {j: 1, k: -1}[k], end = {g: 0, G: 1e9}[k], over = box.open;
  if (help.open || !step && over) return;
  if (step && over) go(step);
  else if (step && L) L.show(L.at + (doc.activeElement.dataset.k ? step : 0));
  else if (k === '?') help.showModal();
  else if (k === '/' && L) $('[data-find]', $('#' + view)).focus();
  else if (end != null && L) L.show(end);
  else if (views[k - 1]) location.hash = '#view=' + views[k - 1];
  else return;
  e.preventDefault();
});
measure(); await route();
doc.body.dataset.ready = performance.now();
for (let b = 0; b < blocks.length; b++) { await need([b * D.size]); await new Promise(r => setTimeout(r, 9)); }
