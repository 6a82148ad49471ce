// Additions to Gradio's page. Runs once, when the page has loaded.
() => {
	// Example buttons hold an image and no text: name them for screen readers after the image's file.
	const name = () => {
		for (const button of document.querySelectorAll(".gallery-item:not([aria-label])")) {
			const file = button.querySelector("img")?.src.split("/").pop();
			if (!file) continue; // the image has not loaded yet
			button.setAttribute("aria-label", `Example: ${file.replace(/\.\w+$/, "").replaceAll("-", " ")}`);
		}
	};
	new MutationObserver(name).observe(document.body, { attributeFilter: ["src"], childList: true, subtree: true });
	name();

	// Gradio's button reads the clipboard, which browsers allow on https and localhost only. Ctrl+V works everywhere:
	// the pasted file is treated as an upload.
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
