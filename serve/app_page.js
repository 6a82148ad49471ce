// Gradio's example buttons hold a picture and no text. Their file names say what they show, so a screen reader can too.
() => {
	const name = () => {
		for (const button of document.querySelectorAll(".gallery-item:not([aria-label])")) {
			const file = button.querySelector("img")?.src.split("/").pop() ?? "";
			button.setAttribute("aria-label", `Example: ${file.replace(/\.\w+$/, "").replaceAll("-", " ")}`);
		}
	};
	new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
	name();
}
