// The files of a search: an image, a clip, or one of each.

import { t } from "./language.js";
import { Refused } from "./server.js";
import { bytes } from "./words.js";

const LARGEST = 64 * 2 ** 20; // bytes of the files of a search; the server has this limit too, but checks it only after the upload
const CLIPS = /\.(mp4|m4v|mov|mkv|webm|avi|mpe?g|m?ts|m2ts|wmv|flv|ogv|3gp)$/i; // some systems report no media type for these

let attached = { image: null, video: null }; // {file, url}

/** Return the files as {image, video}; undefined for one that is not there. */
export const files = () => ({ image: attached.image?.file, video: attached.video?.file });

/** Return whether there is a file. */
export const hasFiles = () => Boolean(attached.image || attached.video);

/** Replace the files. */
export function setFiles({ image, video }) {
  for (const old of [attached.image, attached.video]) if (old) URL.revokeObjectURL(old.url);
  const keep = (file) => (file ? { file, url: URL.createObjectURL(file) } : null);
  attached = { image: keep(image), video: keep(video) };
}

/** Add files, each in the place of one of its kind, and return their kinds. Throws Refused, and then adds none. */
export function addFiles(added) {
  const taken = files();
  const kinds = new Set();
  for (const file of added) {
    const kind = kindOf(file);
    const name = file.name || t("This file");
    if (!kind) throw new Refused(t("{name} is neither an image nor a video. Choose one of these.", { name }));
    if (!file.size) throw new Refused(t("{name} is empty. Choose another file.", { name }));
    if (kinds.has(kind)) throw new Refused(t("A search takes one image and one clip. Choose which."));
    kinds.add(kind);
    taken[kind] = file;
    const total = (taken.image?.size ?? 0) + (taken.video?.size ?? 0);
    if (total > LARGEST) {
      const sizes = { name, total: bytes(total), limit: bytes(LARGEST) };
      throw new Refused(t("{name} makes it {total}; a search takes {limit}. Cut or shrink it first.", sizes));
    }
  }
  if (kinds.size) setFiles(taken);
  return kinds;
}

function kindOf({ type, name }) {
  if (type.startsWith("image/")) return "image";
  return type.startsWith("video/") || CLIPS.test(name) ? "video" : null;
}

/** Return the files as parts of the search; see `chips.show`. */
export function described() {
  return Object.entries(attached).filter(([, attachment]) => attachment).map(([kind, { file, url }]) => {
    const remove = () => setFiles({ ...files(), [kind]: null });
    return { name: file.name || t("Pasted image"), kind, url, remove };
  });
}
