// What Gradio's page lacks. It runs once, when the page is there.
() => {
	// Example buttons hold a picture and no text. File names say what they show, so screen readers can too.
	const name = () => {
		for (const button of document.querySelectorAll(".gallery-item:not([aria-label])")) {
			const file = button.querySelector("img")?.src.split("/").pop();
			if (!file) continue; // the picture comes later
			button.setAttribute("aria-label", `Example: ${file.replace(/\.\w+$/, "").replaceAll("-", " ")}`);
		}
	};
	new MutationObserver(name).observe(document.body, { attributeFilter: ["src"], childList: true, subtree: true });
	name();

	// Gradio's button reads the clipboard itself, which browsers allow on https and localhost only. Ctrl+V works
	// everywhere: what is pasted is handled as an uploaded file.
	document.addEventListener("paste", (event) => {
		const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
		const box = [...document.querySelectorAll(".photo")].find((one) => one.checkVisibility());
		const input = box?.querySelector("input[type=file]");
		if (!file || !input) return;
		event.preventDefault();
		const files = new DataTransfer();
		files.items.add(file);
		input.files = files.files;
		input.dispatchEvent(new Event("change", { bubbles: true }));
	});
}
