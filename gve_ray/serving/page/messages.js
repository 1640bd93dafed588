// The messages of the page in German (de) and simplified Chinese (zh), by the English text that the other modules and
// index.html have. {name} is replaced by a value. English text without an entry is shown in English.

export const MESSAGES = {
  // index.html: the form
  "Find a moment": { de: "Einen Moment finden", zh: "查找片段" },
  "Part of the search": { de: "Teil der Suche", zh: "搜索条件" },
  "What to find": { de: "Was gesucht wird", zh: "要查找的内容" },
  "Add an image or a clip; or drop or paste one": {
    de: "Ein Bild oder einen Clip hinzufügen, auch durch Ziehen oder Einfügen", zh: "添加图片或短片，也可拖放或粘贴" },
  "Recent searches": { de: "Letzte Suchen", zh: "最近的搜索" },
  "Clear the list": { de: "Liste leeren", zh: "清空列表" },
  "Image or clip": { de: "Bild oder Clip", zh: "图片或短片" },
  "Search": { de: "Suchen", zh: "搜索" },
  "Without": { de: "Ohne", zh: "不含" },
  "Without {what}": { de: "Ohne {what}", zh: "不含 {what}" },
  "What the pictures should not show, for example a dog. It ranks hits lower, and excludes none.": {
    de: "Was die Bilder nicht zeigen sollen, zum Beispiel einen Hund. Treffer damit kommen weiter hinten, keiner fällt weg.",
    zh: "画面中不应出现的内容，例如狗。含有它的结果会靠后，但不会被排除。" },
  "Look for": { de: "Gesucht ist", zh: "查找" },
  "anything": { de: "irgendetwas", zh: "任何内容" },
  "the scene as a whole": { de: "die Szene als Ganzes", zh: "整体场景" },
  "places and objects": { de: "Orte und Gegenstände", zh: "地点和物体" },
  "what happens in which order": { de: "was in welcher Reihenfolge geschieht", zh: "事情发生的顺序" },
  "one moment in it": { de: "ein Moment darin", zh: "其中的一个瞬间" },
  "a long video": { de: "ein langes Video", zh: "长视频" },
  "what the picture and the words say together": {
    de: "was Bild und Worte zusammen sagen", zh: "图片和文字共同表达的内容" },
  "Show": { de: "Anzahl", zh: "显示" },
  "List": { de: "Liste", zh: "列表" },
  "every moment": { de: "jeder Moment", zh: "每个片段" },
  "each video once": { de: "jedes Video einmal", zh: "每个视频一次" },
  "Search in": { de: "Suchen in", zh: "搜索范围" },
  "pictures and words": { de: "Bildern und Worten", zh: "画面和文字" },
  "pictures only": { de: "nur Bildern", zh: "仅画面" },
  "words only": { de: "nur Worten", zh: "仅文字" },
  "Model": { de: "Modell", zh: "模型" },
  "Filter": { de: "Filter", zh: "筛选" },
  "Filter, as JSON": { de: "Filter, als JSON", zh: "筛选条件（JSON）" },
  "A value, a list of values, or a range such as": {
    de: "Ein Wert, eine Liste von Werten oder ein Bereich wie", zh: "一个值、一组值，或一个范围，例如" },
  "{\"field\": value} with {names}": { de: "{\"Feld\": Wert} mit {names}", zh: "{\"字段\": 值}，字段为 {names}" },
  "Fields: {fields}.": { de: "Felder: {fields}.", zh: "字段：{fields}。" },

  "After": { de: "Nach", zh: "起始时间" },
  "Before": { de: "Vor", zh: "结束时间" },
  "in the video, as minutes and seconds": { de: "im Video, als Minuten und Sekunden", zh: "视频中的时间，分:秒" },
  "{text} is not a time. Write it as 10:00 or 1:02:03.": {
    de: "{text} ist keine Zeit. Bitte als 10:00 oder 1:02:03 schreiben.", zh: "{text} 不是时间，请写成 10:00 或 1:02:03。" },
  "After {time}": { de: "Nach {time}", zh: "{time} 之后" },
  "Before {time}": { de: "Vor {time}", zh: "{time} 之前" },
  "Only in {name}": { de: "Nur in {name}", zh: "仅在 {name} 中" },
  "one video": { de: "einem Video", zh: "一个视频" },

  // index.html: below the form
  "Say it": { de: "Beschreiben", zh: "用文字描述" },
  "What is seen, where, in which order. Whole sentences work best.": {
    de: "Was zu sehen ist, wo, in welcher Reihenfolge. Ganze Sätze eignen sich am besten.",
    zh: "看到什么、在哪里、按什么顺序。完整的句子效果最好。" },
  "Show it": { de: "Zeigen", zh: "用画面展示" },
  "Drop, paste or choose an image or a short clip.": {
    de: "Ein Bild oder einen kurzen Clip hierher ziehen, einfügen oder auswählen.",
    zh: "拖放、粘贴或选择一张图片或一段短片。" },
  "Both": { de: "Beides", zh: "两者结合" },
  "An image together with text: “the same place, at night”.": {
    de: "Ein Bild zusammen mit Text: „derselbe Ort, bei Nacht“.", zh: "图片加文字：“同一个地方，在夜晚”。" },
  "Checking files: {done} of {total}": { de: "Dateien werden geprüft: {done} von {total}", zh: "正在检查文件：{done} / {total}" },
  "Indexing files: {done} of {total}": { de: "Dateien werden indexiert: {done} von {total}", zh: "正在索引文件：{done} / {total}" },
  "{n} moment can be found here.": { de: "Hier ist {n} Moment zu finden.", zh: "这里有 {n} 个片段可供查找。" },
  "{n} moments can be found here.": { de: "Hier sind {n} Momente zu finden.", zh: "这里有 {n} 个片段可供查找。" },
  "No moment matches": { de: "Kein Moment passt", zh: "没有匹配的片段" },
  "Search without the filter": { de: "Ohne den Filter suchen", zh: "不使用筛选条件搜索" },
  "No confident match": { de: "Kein sicherer Treffer", zh: "没有可信的匹配" },
  "Nothing here matches clearly better than chance. Say more about what is seen, or look at what comes closest.": {
    de: "Nichts passt deutlich besser als zufällig. Mehr über das Gesuchte sagen, oder ansehen, was am nächsten kommt.",
    zh: "没有比随机结果明显更好的匹配。请描述得更详细，或查看最接近的结果。" },
  "Moments found": { de: "Gefundene Momente", zh: "找到的片段" },
  "Save this list:": { de: "Diese Liste speichern:", zh: "保存此列表：" },
  "CSV": { de: "CSV", zh: "CSV" },
  "JSON": { de: "JSON", zh: "JSON" },
  "EDL": { de: "EDL", zh: "EDL" },
  "A table for a spreadsheet": { de: "Eine Tabelle", zh: "电子表格" },
  "Everything, for programs": { de: "Alles, für Programme", zh: "全部内容，供程序使用" },
  "An edit decision list, for video editors": {
    de: "Eine Schnittliste (EDL), für den Videoschnitt", zh: "剪辑决策表（EDL），供视频剪辑软件使用" },
  "search": { de: "suchen", zh: "搜索" },
  "move": { de: "bewegen", zh: "移动" },
  "open": { de: "öffnen", zh: "打开" },
  "more like this": { de: "mehr davon", zh: "更多类似" },
  "use as an example": { de: "als Beispiel verwenden", zh: "用作示例" },
  "only in this video": { de: "nur in diesem Video", zh: "仅在此视频中" },
  "close": { de: "schließen", zh: "关闭" },
  "Drop an image or a clip to search with it": {
    de: "Ein Bild oder einen Clip ablegen, um damit zu suchen", zh: "放下图片或短片即可用它搜索" },

  // A card, and the dialog with one moment
  "More like this": { de: "Mehr davon", zh: "更多类似" },
  "More like this: {name}": { de: "Mehr davon: {name}", zh: "更多类似：{name}" },
  "Use as an example": { de: "Als Beispiel verwenden", zh: "用作示例" },
  "More actions": { de: "Weitere Aktionen", zh: "更多操作" },
  "More actions: {name}": { de: "Weitere Aktionen: {name}", zh: "更多操作：{name}" },
  "Only in this video": { de: "Nur in diesem Video", zh: "仅在此视频中" },
  "Also at": { de: "Auch bei", zh: "另见" },
  "How likely it is that this is no coincidence": {
    de: "Wie wahrscheinlich es ist, dass dies kein Zufall ist", zh: "这不是巧合的可能性" },
  "How close it is to what was asked; 1 is the same": {
    de: "Wie nahe es dem Gesuchten ist; 1 ist dasselbe", zh: "与查询的接近程度；1 表示相同" },
  "Its place before a model has looked at the best matches": {
    de: "Sein Platz, bevor ein Modell die besten Treffer angesehen hat", zh: "模型查看最佳匹配之前的位置" },
  "was number {rank}": { de: "war Nummer {rank}", zh: "原第 {rank} 位" },
  "{start} to {end}": { de: "{start} bis {end}", zh: "{start} 到 {end}" },
  "score {score}": { de: "Wert {score}", zh: "得分 {score}" },
  "Very likely": { de: "Sehr wahrscheinlich", zh: "很可能" },
  "Likely": { de: "Wahrscheinlich", zh: "可能" },
  "Uncertain": { de: "Unsicher", zh: "不确定" },
  "Unlikely": { de: "Unwahrscheinlich", zh: "不太可能" },
  "subtitles": { de: "Untertitel", zh: "字幕" },
  "speech": { de: "Gesprochenes", zh: "语音" },
  "caption": { de: "Beschreibung", zh: "说明" },
  "transcript": { de: "Transkript", zh: "文字稿" },
  "name": { de: "Name", zh: "名称" },
  "Search with this picture": { de: "Mit diesem Bild suchen", zh: "用此画面搜索" },
  "Drag a box around what to find.": { de: "Einen Rahmen um das Gesuchte ziehen.", zh: "拖动以框选要查找的内容。" },
  "Whole picture": { de: "Ganzes Bild", zh: "整个画面" },
  "Play again": { de: "Noch einmal abspielen", zh: "重新播放" },
  "Close": { de: "Schließen", zh: "关闭" },
  "This browser cannot play this file ({type}).": {
    de: "Dieser Browser kann diese Datei nicht abspielen ({type}).", zh: "此浏览器无法播放该文件（{type}）。" },
  "Picture of {name}": { de: "Bild von {name}", zh: "{name} 的画面" },
  "This is an animated image, which plays only as a whole. The moment is {span} of it.": {
    de: "Dies ist ein animiertes Bild, das nur als Ganzes läuft. Der Moment darin ist {span}.",
    zh: "这是一张动图，只能整体播放。该片段是其中的 {span}。" },
  "Download it to play it in another program.": {
    de: "Herunterladen, um sie in einem anderen Programm abzuspielen.", zh: "下载后用其他程序播放。" },
  "Downloading: {part} of {size}.": { de: "Wird heruntergeladen: {part} von {size}.", zh: "正在下载：{part}，共 {size}。" },
  "Download this moment": { de: "Diesen Moment herunterladen", zh: "下载此片段" },
  "Preparing the file…": { de: "Die Datei wird vorbereitet …", zh: "正在准备文件…" },
  "Copy link": { de: "Link kopieren", zh: "复制链接" },
  "Link copied.": { de: "Link kopiert.", zh: "链接已复制。" },
  "The address of this page is now the link.": {
    de: "Die Adresse dieser Seite ist jetzt der Link.", zh: "此页面的地址现在就是该链接。" },
  "Downloaded.": { de: "Heruntergeladen.", zh: "已下载。" },
  "Moment": { de: "Moment", zh: "片段" },
  "Matches from": { de: "Passt von", zh: "匹配范围" },
  "Likelihood": { de: "Wahrscheinlichkeit", zh: "可能性" },
  "Score": { de: "Wert", zh: "得分" },
  "File": { de: "Datei", zh: "文件" },
  "Length": { de: "Länge", zh: "时长" },
  "Picture": { de: "Bild", zh: "画面" },
  "Size": { de: "Größe", zh: "大小" },

  // Files of a search
  "This file": { de: "Diese Datei", zh: "该文件" },
  "{name} is neither an image nor a video. Choose one of these.": {
    de: "{name} ist weder ein Bild noch ein Video. Bitte eines davon wählen.", zh: "{name} 既不是图片也不是视频，请选择其中之一。" },
  "{name} is empty. Choose another file.": {
    de: "{name} ist leer. Bitte eine andere Datei wählen.", zh: "{name} 是空文件，请选择其他文件。" },
  "A search takes one image and one clip. Choose which.": {
    de: "Eine Suche nimmt ein Bild und einen Clip. Bitte auswählen.", zh: "一次搜索只能用一张图片和一段短片，请选择。" },
  "{name} makes it {total}; a search takes {limit}. Cut or shrink it first.": {
    de: "Mit {name} sind es {total}; eine Suche nimmt {limit}. Bitte zuerst kürzen oder verkleinern.",
    zh: "加上 {name} 共 {total}；一次搜索最多 {limit}。请先剪短或缩小。" },
  "Image added. Search, or add words to it.": {
    de: "Bild hinzugefügt. Suchen, oder Worte dazu schreiben.", zh: "已添加图片。可直接搜索，或补充文字。" },
  "Clip added. Search, or add words to it.": {
    de: "Clip hinzugefügt. Suchen, oder Worte dazu schreiben.", zh: "已添加短片。可直接搜索，或补充文字。" },
  "Pasted image": { de: "Eingefügtes Bild", zh: "粘贴的图片" },
  "Like {name}": { de: "Wie {name}", zh: "类似 {name}" },
  "one moment": { de: "ein Moment", zh: "一个片段" },
  "Remove {name}": { de: "{name} entfernen", zh: "移除 {name}" },
  "Add words, or just search": { de: "Worte hinzufügen, oder einfach suchen", zh: "补充文字，或直接搜索" },
  "Describe what happens in it": { de: "Beschreiben, was darin geschieht", zh: "描述其中发生的事" },
  "Example added. Search, or add more.": {
    de: "Beispiel hinzugefügt. Suchen, oder weitere hinzufügen.", zh: "已添加示例。可直接搜索，或继续添加。" },
  "Example removed.": { de: "Beispiel entfernt.", zh: "已移除示例。" },

  // The search and its answer
  "This server has no index to search. Make one with gve index, and serve it.": {
    de: "Dieser Server hat keinen Index. Mit gve index einen anlegen und ihn bereitstellen.",
    zh: "此服务器没有可搜索的索引。请用 gve index 创建并提供服务。" },
  "The file of this search was not kept. Add it again, then search.": {
    de: "Die Datei dieser Suche wurde nicht aufbewahrt. Bitte noch einmal hinzufügen, dann suchen.",
    zh: "此次搜索的文件未保留。请重新添加后再搜索。" },
  "Describe what to find, or add an image or a clip.": {
    de: "Beschreiben, was zu finden ist, oder ein Bild oder einen Clip hinzufügen.",
    zh: "请描述要查找的内容，或添加图片或短片。" },
  "Searching…": { de: "Suche läuft …", zh: "正在搜索…" },
  "{n} moment": { de: "{n} Moment", zh: "{n} 个片段" },
  "{n} moments": { de: "{n} Momente", zh: "{n} 个片段" },
  "{count} in {seconds} s": { de: "{count} in {seconds} s", zh: "{count}，用时 {seconds} 秒" },
  "the best {candidates} reranked": { de: "die besten {candidates} neu geordnet", zh: "已重排前 {candidates} 个" },
  "{judged} of {candidates} reranked: {problem}": {
    de: "{judged} von {candidates} neu geordnet: {problem}", zh: "已重排 {candidates} 个中的 {judged} 个：{problem}" },
  "Show {n} weaker match": { de: "{n} schwächeren Treffer zeigen", zh: "显示 {n} 个较弱的匹配" },
  "Show {n} weaker matches": { de: "{n} schwächere Treffer zeigen", zh: "显示 {n} 个较弱的匹配" },
  "The filter leaves nothing to search in. Loosen it, or search without it.": {
    de: "Der Filter lässt nichts übrig. Bitte lockern, oder ohne ihn suchen.",
    zh: "筛选后没有可搜索的内容。请放宽条件，或不使用筛选。" },
  "The index holds nothing to compare with. Index some videos, or choose another model.": {
    de: "Der Index ist leer. Bitte Videos indizieren oder ein anderes Modell wählen.",
    zh: "索引中没有可比较的内容。请先为视频建立索引，或选择其他模型。" },
  "The filter cannot be used. The message next to it says what to change.": {
    de: "Der Filter ist ungültig. Die Meldung daneben sagt, was zu ändern ist.",
    zh: "筛选条件无效。旁边的消息说明了如何修改。" },

  // The server and its key
  "The server cannot be reached, or broke off. Is it still running?": {
    de: "Der Server ist nicht erreichbar oder hat abgebrochen. Läuft er noch?", zh: "无法连接服务器，或连接中断。它还在运行吗？" },
  "The server is busy. Try again in {wait} s.": {
    de: "Der Server ist ausgelastet. Bitte in {wait} s noch einmal versuchen.", zh: "服务器繁忙，请在 {wait} 秒后重试。" },
  "The server answered {status}.": { de: "Der Server hat mit {status} geantwortet.", zh: "服务器返回 {status}。" },
  "This is not the server's key. Check it and try again.": {
    de: "Das ist nicht der Schlüssel des Servers. Bitte prüfen und noch einmal versuchen.",
    zh: "这不是服务器的密钥，请检查后重试。" },
  "This server answers only with a key. Search again to give one.": {
    de: "Dieser Server antwortet nur mit einem Schlüssel. Noch einmal suchen, um ihn einzugeben.",
    zh: "此服务器需要密钥。请再次搜索并输入密钥。" },
  "This server asks for a key": { de: "Dieser Server verlangt einen Schlüssel", zh: "此服务器需要密钥" },
  "It is sent once, to open a session of this browser. The page does not keep it.": {
    de: "Er wird einmal gesendet, um eine Sitzung dieses Browsers zu öffnen. Die Seite bewahrt ihn nicht auf.",
    zh: "密钥只发送一次，用于打开此浏览器的会话。页面不会保存它。" },
  "Key": { de: "Schlüssel", zh: "密钥" },
  "Open": { de: "Öffnen", zh: "打开" },
  "Cancel": { de: "Abbrechen", zh: "取消" },
};
