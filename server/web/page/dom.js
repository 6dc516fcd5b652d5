// Building and updating elements. Text goes in as text nodes only, never as markup: ids, names and messages come from strangers.

export const byId = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Touches the page only when something changed, so that selections and focus survive updates.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

export function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

// Makes the children of `parent` mirror `items` in order: one element per key, made once by `make` and brought up to date by `update`.
export function mirror(parent, items, key, make, update) {
  const old = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const id = String(key(item));
    let node = old.get(id);
    if (node === undefined) {
      node = make(item);
      node.dataset.key = id;
    }
    old.delete(id);
    update(node, item);
    if (node === place) {
      place = place.nextElementSibling;
    } else {
      parent.insertBefore(node, place);
    }
  }
  for (const node of old.values()) node.remove();
}
