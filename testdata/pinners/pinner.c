// SPDX-License-Identifier: GPL-2.0
/*
 * Pins memory of an iommufd as the driver of a device does that has no IOMMU: by
 * iommufd_access_pin_pages(), which charges whoever mapped it. ioctl(2) of /dev/pinner
 * takes a struct request; what it pinned is unpinned when the file is closed.
 */
#include <linux/fs.h>
#include <linux/iommufd.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#define PIN 0x4001
#define UNPIN 0x4002
#define PINS 8

struct request {
	u32 iommufd;
	u32 ioas;
	u64 iova;
	u64 bytes; /* 64 pages at most */
};

struct pinner {
	struct iommufd_access *access;
	struct { u64 iova, bytes; } pins[PINS];
};

static void unmap(void *data, unsigned long iova, unsigned long bytes)
{
}

static const struct iommufd_access_ops ops = { .needs_pin_pages = 1, .unmap = unmap };

static int attach(struct pinner *p, const struct request *r)
{
	struct iommufd_ctx *ctx = iommufd_ctx_from_fd(r->iommufd);
	struct iommufd_access *access;
	u32 id;
	int ret;

	if (IS_ERR(ctx))
		return PTR_ERR(ctx);
	access = iommufd_access_create(ctx, &ops, p, &id);
	iommufd_ctx_put(ctx);
	if (IS_ERR(access))
		return PTR_ERR(access);
	ret = iommufd_access_attach(access, r->ioas);
	if (ret)
		iommufd_access_destroy(access);
	else
		p->access = access;
	return ret;
}

static int pin(struct pinner *p, const struct request *r)
{
	struct page *pages[64];
	int ret = p->access ? 0 : attach(p, r);

	if (!ret && r->bytes > sizeof(pages) / sizeof(*pages) * PAGE_SIZE)
		ret = -EINVAL;
	for (int i = 0; !ret && i < PINS; i++) {
		if (p->pins[i].bytes)
			continue;
		ret = iommufd_access_pin_pages(p->access, r->iova, r->bytes, pages, 0);
		if (!ret) {
			p->pins[i].iova = r->iova;
			p->pins[i].bytes = r->bytes;
		}
		return ret;
	}
	return ret ? ret : -ENOSPC;
}

/* Of an iova, or of all. */
static void unpin(struct pinner *p, bool all, u64 iova)
{
	for (int i = 0; i < PINS; i++) {
		if (!p->pins[i].bytes || (!all && p->pins[i].iova != iova))
			continue;
		iommufd_access_unpin_pages(p->access, p->pins[i].iova, p->pins[i].bytes);
		p->pins[i].bytes = 0;
	}
}

static long control(struct file *file, unsigned int command, unsigned long argument)
{
	struct request r;

	if (copy_from_user(&r, (void __user *)argument, sizeof(r)))
		return -EFAULT;
	switch (command) {
	case PIN:
		return pin(file->private_data, &r);
	case UNPIN:
		unpin(file->private_data, false, r.iova);
		return 0;
	}
	return -ENOTTY;
}

static int open(struct inode *inode, struct file *file)
{
	file->private_data = kzalloc(sizeof(struct pinner), GFP_KERNEL);
	return file->private_data ? 0 : -ENOMEM;
}

static int release(struct inode *inode, struct file *file)
{
	struct pinner *p = file->private_data;

	if (p->access) {
		unpin(p, true, 0);
		iommufd_access_destroy(p->access);
	}
	kfree(p);
	return 0;
}

static const struct file_operations operations = {
	.owner = THIS_MODULE, .open = open, .release = release, .unlocked_ioctl = control,
};
static struct miscdevice device = { .minor = MISC_DYNAMIC_MINOR, .name = "pinner", .fops = &operations };
module_misc_device(device);
MODULE_IMPORT_NS(IOMMUFD);
MODULE_LICENSE("GPL");
